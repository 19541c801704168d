"""One pass of the source model over calibration batches: moments of every attention input.

    A = sum [x; 1] [x; 1]^T    B_q = sum [x; 1] q^T    B_k = sum [x; 1] k^T    B_v = sum [x; 1] v^T

over the tokens of all samples, with x the output of input_layernorm, and q and k after QK-norm and
before rope. For any affine map of x, these sums determine its second moments and its distance from
q and k. The pass also sums the second moments of q by heads and of [k; v] after rope, for layers
that keep norm and rope, and the rotations of attended keys (`ivx.conversion.mean_rotation`).

Shapes: E = D + 1, the input with a constant 1 appended; q is N * H wide, k is K * H wide.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from data_pipelines.batch import Batch
from ivx import progress
from ivx.conversion import mean_rotation
from ivx.conversion.partial_sums import Partial, PartialSums
from ivx.errors import UserError
from ivx.models.definition import ModelDefinition, Params
from ivx.models.grouped_attention import GroupedAttention
from ivx.models.model import VideoLanguageModel
from ivx.models.rope import Rope, rotate
from ivx.parallel import batches, compiler, sharding

# Tokens per unknown of the affine fit. The ridge handles missing directions, but not noise.
MIN_TOKENS = 4


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Sums over `tokens` tokens, float64, with all layers stacked on axis 0.

    Attributes:
      inputs: A, [L, E, E].
      queries: B_q, [L, E, N * H].
      keys: B_k, [L, E, K * H].
      values: B_v, [L, E, K * H].
      query_energy: sum |q|^2, [L].
      key_energy: sum |k|^2, [L].
      roped_queries: sum q q^T of rotated queries by heads, [L, N, H, H].
      cached: sum [k; v] [k; v]^T of rotated keys and of values, [L, 2 K H, 2 K H].
      turns: sum of the mean rotations, real and imaginary part, [L, 2, N, H / 2].
      tokens: token count.
    """

    inputs: np.ndarray
    queries: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    query_energy: np.ndarray
    key_energy: np.ndarray
    roped_queries: np.ndarray
    cached: np.ndarray
    turns: np.ndarray
    tokens: int


def collect(
    definition: ModelDefinition,
    params: Params,
    open_batches: Callable[[int], Iterable[Batch]],
    mesh: Mesh,
    partial_sums: PartialSums | None = None,
    rounds: int | None = None,
) -> Statistics:
    """Runs the model and sums: float32 on the devices within a batch, float64 on the host across.

    Args:
      definition: a model with grouped attention.
      params: its parameters.
      open_batches: returns the calibration batches from a given index on. There is only one host.
      mesh: devices over which packs are sharded.
      partial_sums: checkpoints of the pass; an interrupted pass resumes from the newest.
      rounds: number of batches, for the time left; None if it is unknown.

    Raises:
      UserError: the batches hold no token, or a sum is not finite.
    """
    run = jit_watched(definition, mesh)
    count, tokens, totals = (partial_sums and partial_sums.load()) or Partial(0, 0, {})
    saved = time.monotonic()
    tracked = progress.track(open_batches(count), rounds, "statistics", "batches", count)
    for batch in tracked:
        sums = run(params, batches.put_batch(batch, mesh))
        for name, values in sums.items():
            values = np.asarray(values)
            _check_finite(name, values, count)
            if name in totals:
                # In place, without a float64 copy of the addend: at 8B the sums take 12 GB.
                np.add(totals[name], values, out=totals[name])
            else:
                totals[name] = values.astype(np.float64)
        count, tokens = count + 1, tokens + int((batch.segments > 0).sum())
        if partial_sums and time.monotonic() - saved >= partial_sums.every:
            partial_sums.save(Partial(count, tokens, totals))
            saved = time.monotonic()
    if not tokens:
        raise UserError("the calibration batches hold no token; give data that fit the packs")
    if partial_sums:
        partial_sums.save(Partial(count, tokens, totals))
    return Statistics(**totals, tokens=tokens)


def jit_watched(definition: ModelDefinition, mesh: Mesh) -> Callable:
    """The jitted pass, from parameters and a batch to its sums, replicated over the devices."""

    def watched(params: Params, batch: Batch) -> dict[str, Array]:
        return watch(definition.bind(params))(batch, keep_cache=True).cache

    return jax.jit(
        sharding.under_mesh(mesh, watched),
        out_shardings=sharding.replicated(mesh),
        # Weights may be held in bfloat16, whatever the dtype of computation.
        compiler_options=compiler.options(mesh) | compiler.inference_options(mesh, "bfloat16"),
    )


def check_tokens(tokens: int | float, width: int, norm: str) -> None:
    """Rejects a pass with too few tokens for the affine fit.

    Args:
      tokens: number of calibration tokens.
      width: D.
      norm: what replaces the QK-norm; all but `affine` have at most one unknown per head.

    Raises:
      UserError: there are too few tokens.
    """
    minimum = MIN_TOKENS * (width + 1)
    if norm == "affine" and tokens < minimum:
        raise UserError(
            f"{tokens:,.0f} calibration tokens are too few: the affine fit of the QK-norm has"
            f" {width + 1:,} unknowns per output and needs at least {minimum:,} tokens, ideally"
            " fifty per unknown; raise stage.calibration_packs or set stage.norm=fold"
        )


def _check_finite(name: str, values: np.ndarray, batch: int) -> None:
    """Rejects sums that are not finite, after the first batch that causes them."""
    bad = [layer for layer in range(len(values)) if not np.isfinite(values[layer]).all()]
    if bad:
        raise UserError(
            f"layer {bad[0]} of the model to convert returns values that are not finite for"
            f" calibration batch {batch} (in the sum {name}); check the checkpoint with"
            " `ivx verify`, or calibrate with model.dtype=float32"
        )


def watch(model: VideoLanguageModel) -> VideoLanguageModel:
    """The model with sums in place of its caches; its other outputs do not change."""
    layers = model.language_model.layers
    layers.self_attn = _Watched(layers.self_attn)
    return model


class _Watched(nnx.Module):
    """Grouped attention that returns the fields of `Statistics` as its cache."""

    def __init__(self, attention: GroupedAttention) -> None:
        self.attention = attention

    def __call__(
        self, x_btd: Float[Array, "b t d"], rope: Rope, segments_bt: Int[Array, "b t"]
    ) -> tuple[Float[Array, "b t d"], dict[str, Array]]:
        attended, _ = self.attention(x_btd, rope, segments_bt)
        return attended, sums(self.attention, x_btd, rope, segments_bt)


def sums(
    attention: GroupedAttention,
    x_btd: Float[Array, "b t d"],
    rope: Rope,
    segments_bt: Int[Array, "b t"],
    input_btd: Float[Array, "b t d"] | None = None,
) -> dict[str, Array]:
    """The sums of one layer over one batch, float32.

    Args:
      attention: of the layer.
      x_btd: its input, from which the targets q, k and v are computed.
      rope: rotation tables of the tokens.
      segments_bt: sample of each token, 0 for padding.
      input_btd: input of the converted layer, on which the targets are regressed; x if None.
    """
    is_token_bt11 = (segments_bt > 0)[..., None, None]
    input_btd = x_btd if input_btd is None else input_btd

    def heads(x_btd: Array, project: Callable, norm: Callable | None = None) -> Array:
        split = einops.rearrange(project(x_btd), "b t (n h) -> b t n h", h=attention.head_dim)
        return jnp.where(is_token_bt11, norm(split) if norm else split, 0)

    def product(equation: str, a: Array, b: Array) -> Array:
        # At lower precision a TPU rounds float32 factors to bfloat16.
        return jnp.einsum(
            equation,
            a,
            b,
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )

    x_bte = jnp.concatenate([input_btd, jnp.ones_like(input_btd[..., :1])], -1)
    x_bte = jnp.where(is_token_bt11[..., 0], x_bte, 0)
    q_btnh = heads(x_btd, attention.q_proj, attention.q_norm)
    k_btkh = heads(x_btd, attention.k_proj, attention.k_norm)
    roped_q = rotate(heads(input_btd, attention.q_proj, attention.q_norm), rope)
    roped_k = rotate(heads(input_btd, attention.k_proj, attention.k_norm), rope)
    v_btkh = heads(input_btd, attention.v_proj)
    q_bto, k_bto, v_bto, kv_bto = (
        einops.rearrange(a, "b t n h -> b t (n h)")
        for a in (
            q_btnh,
            k_btkh,
            heads(x_btd, attention.v_proj),
            jnp.concatenate([roped_k, v_btkh], 2),
        )
    )
    moment = "bte,bto->eo"
    return {
        "inputs": product(moment, x_bte, x_bte),
        "queries": product(moment, x_bte, q_bto),
        "keys": product(moment, x_bte, k_bto),
        "values": product(moment, x_bte, v_bto),
        "query_energy": jnp.square(q_bto.astype(jnp.float32)).sum(),
        "key_energy": jnp.square(k_bto.astype(jnp.float32)).sum(),
        "roped_queries": product("btnh,btni->nhi", roped_q, roped_q),
        "cached": product(moment, kv_bto, kv_bto),
        "turns": mean_rotation.sum_rotations(
            rotate(q_btnh, rope), rotate(k_btkh, rope), rope, segments_bt
        ),
    }
