"""One pass of the original model over calibration batches: what every layer's attention is fed.

    A = sum [x; 1] [x; 1]^T    B_q = sum [x; 1] q^T    B_k = sum [x; 1] k^T    B_v = sum [x; 1] v^T

over the tokens of all samples, x the output of input_layernorm, q and k after QK-norm and before
rope. Of any affine map of x these sums know the second moments and the distance from q and k.
Beside them the second moments of q by heads and of [k; v] after rope, for layers that keep norm and
rope, and what keys turn by where they are attended to.

Shapes: E = D + 1, the input with a constant 1 behind it; q is N * H wide, k is K * H wide.
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
from ivx.conversion import turns
from ivx.conversion.partial_sums import Partial, PartialSums
from ivx.errors import UserError
from ivx.models.definition import ModelDefinition, Params
from ivx.models.grouped_attention import GroupedAttention
from ivx.models.model import VideoLanguageModel
from ivx.models.rope import Rope, rotate
from ivx.parallel import ambient, compiler, rules

# For each unknown of the affine fit. It falls back on the fold by its ridge, but not on noise.
LEAST_TOKENS = 4


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Sums over `tokens` tokens, float64, all layers on axis 0.

    Attributes:
      inputs: A, [L, E, E].
      queries: B_q, [L, E, N * H].
      keys: B_k, [L, E, K * H].
      values: B_v, the same of the values.
      query_energy: sum |q|^2, [L].
      key_energy: sum |k|^2, [L].
      roped_queries: sum q q^T of rotated queries by heads, [L, N, H, H].
      cached: sum [k; v] [k; v]^T of rotated keys and of values, [L, 2 K H, 2 K H].
      turns: of `ivx.conversion.turns`, real and imaginary part, [L, 2, N, H / 2].
      tokens: how many.
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
    kept: PartialSums | None = None,
) -> Statistics:
    """Runs the model and adds up: a batch in float32 on the devices, batches in float64 here.

    Args:
      definition: of a model with grouped attention.
      params: its parameters.
      open_batches: from a number to the calibration batches from there on; this host is the only
        one.
      mesh: devices over which packs are spread.
      kept: where the sums are kept meanwhile; a pass that was cut off goes on from there.

    Raises:
      UserError: the batches hold no token, or make the model compute numbers that are none.
    """
    run = jit_watched(definition, mesh)
    number, tokens, total = (kept and kept.load()) or Partial(0, 0, {})
    since = time.monotonic()
    for batch in open_batches(number):
        found = run(params, rules.put_batch(batch, mesh))
        for name, values in found.items():
            values = np.asarray(values)
            _check_finite(name, values, number)
            if name in total:
                # In place, and without a float64 copy of what is added: at 8B the sums are 12 GB.
                np.add(total[name], values, out=total[name])
            else:
                total[name] = values.astype(np.float64)
        number, tokens = number + 1, tokens + int((batch.segments > 0).sum())
        if kept and time.monotonic() - since >= kept.every:
            kept.keep(Partial(number, tokens, total))
            since = time.monotonic()
    if not tokens:
        raise UserError("the calibration batches hold no token; give data that fit the packs")
    if kept:
        kept.keep(Partial(number, tokens, total))
    return Statistics(**total, tokens=tokens)


def jit_watched(definition: ModelDefinition, mesh: Mesh) -> Callable:
    """From parameters and a batch to its sums, jitted; every device has all of them."""

    def watched(params: Params, batch: Batch) -> dict[str, Array]:
        return watch(definition.bind(params))(batch, keep_cache=True).cache

    return jax.jit(
        ambient.under(mesh, watched),
        out_shardings=rules.replicated(mesh),
        compiler_options=compiler.options(mesh),
    )


def check_tokens(tokens: float, width: int, norm: str) -> None:
    """Refuses a pass over so few tokens that its affine fit would be of noise.

    Args:
      tokens: that the calibration batches hold.
      width: D.
      norm: what stands for the QK-norm; but for `affine` a head has one unknown.

    Raises:
      UserError: they are too few.
    """
    least = LEAST_TOKENS * (width + 1)
    if norm == "affine" and tokens < least:
        raise UserError(
            f"{tokens:,.0f} calibration tokens are too few: the affine fit of the QK-norm has"
            f" {width + 1:,} unknowns for each output and wants {least:,} tokens or more, fifty for"
            " each unknown if there are; raise stage.calibration_packs, or take stage.norm=fold"
        )


def _check_finite(name: str, values: np.ndarray, batch: int) -> None:
    """Refuses sums of numbers that are none, as soon as there are such."""
    bad = [layer for layer in range(len(values)) if not np.isfinite(values[layer]).all()]
    if bad:
        raise UserError(
            f"layer {bad[0]} of the model to convert gives numbers that are not finite for"
            f" calibration batch {batch} (in the sum {name}); look for a damaged checkpoint with"
            " `ivx verify`, or calibrate with model.dtype=float32"
        )


def watch(model: VideoLanguageModel) -> VideoLanguageModel:
    """The model with sums where its caches were; what it computes otherwise stays the same."""
    layers = model.language_model.layers
    layers.self_attn = _Watched(layers.self_attn)
    return model


class _Watched(nnx.Module):
    """Grouped attention that keeps the fields of `Statistics` instead of a cache."""

    def __init__(self, attention: GroupedAttention):
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
    own_btd: Float[Array, "b t d"] | None = None,
) -> dict[str, Array]:
    """The sums of one layer over one batch, float32.

    Args:
      attention: of the layer.
      x_btd: what it is fed.
      rope: of the tokens.
      segments_bt: 0 where there is no token.
      own_btd: what the converted layer is fed, if it is not x: q, k and v are made of x, all that
        they are to be fitted by of this.
    """
    real_bt11 = (segments_bt > 0)[..., None, None]
    own_btd = x_btd if own_btd is None else own_btd

    def heads(x_btd: Array, project: nnx.Linear, norm: nnx.Module | None = None) -> Array:
        split = einops.rearrange(project(x_btd), "b t (n h) -> b t n h", h=attention.head_dim)
        return jnp.where(real_bt11, norm(split) if norm else split, 0)

    def product(sums: str, a: Array, b: Array) -> Array:
        # Highest: a TPU would round float32 factors to bfloat16 first.
        return jnp.einsum(
            sums,
            a,
            b,
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )

    x_bte = jnp.concatenate([own_btd, jnp.ones_like(own_btd[..., :1])], -1)
    x_bte = jnp.where(real_bt11[..., 0], x_bte, 0)
    q_btnh = heads(x_btd, attention.q_proj, attention.q_norm)
    k_btkh = heads(x_btd, attention.k_proj, attention.k_norm)
    roped_q = rotate(heads(own_btd, attention.q_proj, attention.q_norm), rope)
    roped_k = rotate(heads(own_btd, attention.k_proj, attention.k_norm), rope)
    own_v = heads(own_btd, attention.v_proj)
    q_bto, k_bto, v_bto, kv_bto = (
        einops.rearrange(a, "b t n h -> b t (n h)")
        for a in (
            q_btnh,
            k_btkh,
            heads(x_btd, attention.v_proj),
            jnp.concatenate([roped_k, own_v], 2),
        )
    )
    flat = "bte,bto->eo"
    return {
        "inputs": product(flat, x_bte, x_bte),
        "queries": product(flat, x_bte, q_bto),
        "keys": product(flat, x_bte, k_bto),
        "values": product(flat, x_bte, v_bto),
        "query_energy": jnp.square(q_bto.astype(jnp.float32)).sum(),
        "key_energy": jnp.square(k_bto.astype(jnp.float32)).sum(),
        "roped_queries": product("btnh,btni->nhi", roped_q, roped_q),
        "cached": product(flat, kv_bto, kv_bto),
        "turns": turns.total(rotate(q_btnh, rope), rotate(k_btkh, rope), rope, segments_bt),
    }
