"""One pass of the original model over calibration batches: what every layer's attention is fed.

    A = sum [x; 1] [x; 1]^T     B_q = sum [x; 1] q^T     B_k = sum [x; 1] k^T

over the tokens of all samples, x the output of input_layernorm, q and k after QK-norm and before
rope. Of any affine map of x these sums know the second moments and the distance from q and k.
Beside them the second moments of q by heads and of [k; v], for layers that keep their norm, and
what keys turn by where they are attended to.

Shapes: E = D + 1, the input with a constant 1 behind it; q is N * H wide, k is K * H wide.
"""

import dataclasses
from collections.abc import Iterable

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from data_pipelines.batch import Batch
from ivx.conversion import turns
from ivx.errors import UserError
from ivx.models.definition import ModelDefinition, Params
from ivx.models.grouped_attention import GroupedAttention
from ivx.models.model import VideoLanguageModel
from ivx.models.rope import Rope, rotate
from ivx.parallel import ambient, rules


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Sums over `tokens` tokens, float64, all layers on axis 0.

    Attributes:
      inputs: A, [L, E, E].
      queries: B_q, [L, E, N * H].
      keys: B_k, [L, E, K * H].
      query_energy: sum |q|^2, [L].
      key_energy: sum |k|^2, [L].
      normed_queries: sum q q^T by heads, [L, N, H, H].
      normed_keys_values: sum [k; v] [k; v]^T, [L, 2 K H, 2 K H].
      turns: of `ivx.conversion.turns`, real and imaginary part, [L, 2, N, H / 2].
      tokens: how many.
    """

    inputs: np.ndarray
    queries: np.ndarray
    keys: np.ndarray
    query_energy: np.ndarray
    key_energy: np.ndarray
    normed_queries: np.ndarray
    normed_keys_values: np.ndarray
    turns: np.ndarray
    tokens: int


def collect(
    definition: ModelDefinition, params: Params, batches: Iterable[Batch], mesh: Mesh
) -> Statistics:
    """Runs the model and adds up: a batch in float32 on the devices, batches in float64 here.

    Args:
      definition: of a model with grouped attention.
      params: its parameters.
      batches: what to calibrate on, this host being the only one.
      mesh: devices over which packs are spread.

    Raises:
      UserError: the batches hold no token.
    """

    def sums(params: Params, batch: Batch) -> dict[str, Array]:
        return watch(definition.bind(params))(batch, keep_cache=True).cache

    run = jax.jit(ambient.under(mesh, sums), out_shardings=rules.replicated(mesh))
    total, tokens = {}, 0
    for batch in batches:
        found = jax.tree.map(
            lambda a: np.asarray(a, np.float64), run(params, rules.put_batch(batch, mesh))
        )
        # In place: at 8B the sums are 11 GB.
        total = jax.tree.map(lambda a, b: np.add(a, b, out=a), total, found) if total else found
        tokens += int((batch.segments > 0).sum())
    if not tokens:
        raise UserError("the calibration batches hold no token; give data that fit the packs")
    return Statistics(**total, tokens=tokens)


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
        return attended, _sums(self.attention, x_btd, rope, segments_bt)


def _sums(
    attention: GroupedAttention, x_btd: Array, rope: Rope, segments_bt: Array
) -> dict[str, Array]:
    """The sums of one layer over one batch, float32."""
    real_bt11 = (segments_bt > 0)[..., None, None]

    def heads(project: nnx.Linear, norm: nnx.Module | None = None) -> Array:
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

    x_bte = jnp.concatenate([x_btd, jnp.ones_like(x_btd[..., :1])], -1)
    x_bte = jnp.where(real_bt11[..., 0], x_bte, 0)
    q_btnh = heads(attention.q_proj, attention.q_norm)
    k_btkh = heads(attention.k_proj, attention.k_norm)
    q_bto, k_bto, v_bto = (
        einops.rearrange(a, "b t n h -> b t (n h)")
        for a in (q_btnh, k_btkh, heads(attention.v_proj))
    )
    kv_bto = jnp.concatenate([k_bto, v_bto], -1)
    flat = "bte,bto->eo"
    return {
        "inputs": product(flat, x_bte, x_bte),
        "queries": product(flat, x_bte, q_bto),
        "keys": product(flat, x_bte, k_bto),
        "query_energy": jnp.square(q_bto.astype(jnp.float32)).sum(),
        "key_energy": jnp.square(k_bto.astype(jnp.float32)).sum(),
        "normed_queries": product("btnh,btni->nhi", q_btnh, q_btnh),
        "normed_keys_values": product(flat, kv_bto, kv_bto),
        "turns": turns.total(rotate(q_btnh, rope), rotate(k_btkh, rope), rope, segments_bt),
    }
