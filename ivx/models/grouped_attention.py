"""Grouped-query attention with QK-norm, as in Qwen3-VL: N / K query heads share a key-value head.

    q = rope(norm(x W_q))       norm: RMS over a head, one weight for all heads
    k = rope(norm(x W_k))
    v = x W_v

The cache holds (rotated keys, values), 2 K H numbers per token. HF names: self_attn.{q,k,v,o}_proj,
{q,k}_norm.
"""

from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from ivx.kernels import dense_attention, masking
from ivx.models.cache import write
from ivx.models.layers import linear, rms_norm
from ivx.models.rope import Rope, rotate
from ivx.models.spec import TextSpec


class GroupedCache(NamedTuple):
    """Rotated keys k_bksh and values v_bksh, head-major, as decoding reads them."""

    k: Array
    v: Array


class GroupedAttention(nnx.Module):
    """One layer's attention with a cache of keys and values."""

    def __init__(self, spec: TextSpec, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.heads, self.kv_heads, self.head_dim = spec.heads, spec.kv_heads, spec.head_dim
        wide, narrow = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
        heads = {"head": spec.head_dim, "rngs": rngs, "dtype": dtype}
        self.q_proj = linear(spec.width, wide, ("embed", "heads"), **heads)
        self.k_proj = linear(spec.width, narrow, ("embed", "kv_heads"), **heads)
        self.v_proj = linear(spec.width, narrow, ("embed", "kv_heads"), **heads)
        out_scale = 0.5 / spec.depth
        self.o_proj = linear(wide, spec.width, ("heads", "embed"), scale=out_scale, **heads)
        self.q_norm = rms_norm(spec.head_dim, None, spec.norm_eps, dtype, rngs)
        self.k_norm = rms_norm(spec.head_dim, None, spec.norm_eps, dtype, rngs)

    def __call__(
        self, x_btd: Float[Array, "b t d"], rope: Rope, segments_bt: Int[Array, "b t"]
    ) -> tuple[Float[Array, "b t o"], GroupedCache]:
        """Attends over a full sequence; also returns its cache."""
        q_btnh, k_btkh, v_btkh = self._project(x_btd, rope)
        out_btnh = dense_attention.causal_attention(
            q_btnh, k_btkh, v_btkh, segments_bt, self.head_dim**-0.5
        )
        cache = GroupedCache(*(einops.rearrange(a, "b t k h -> b k t h") for a in (k_btkh, v_btkh)))
        return self.o_proj(einops.rearrange(out_btnh, "b t n h -> b t (n h)")), cache

    def decode(
        self,
        x_btd: Float[Array, "b t d"],
        rope: Rope,
        cache: GroupedCache,
        lengths_b: Int[Array, " b"],
    ) -> tuple[Float[Array, "b t o"], GroupedCache]:
        """Attends with T new tokens per sequence, whose entries are written at `lengths_b`."""
        q_btnh, k_btkh, v_btkh = self._project(x_btd, rope)
        new = (einops.rearrange(a, "b t k h -> b k t h") for a in (k_btkh, v_btkh))
        cache = GroupedCache(*(write(a, b, lengths_b) for a, b in zip(cache, new, strict=True)))
        count = x_btd.shape[1]
        # The rows (m) of one product are the query heads that share a key head, of all tokens.
        q_bkmh = einops.rearrange(q_btnh, "b t (k g) h -> b k (t g) h", k=self.kv_heads)
        scores = jnp.einsum("bkmh,bksh->bkms", q_bkmh, cache.k, preferred_element_type=jnp.float32)
        visible_bt = lengths_b[:, None] + jnp.arange(count) + 1
        visible_bm = jnp.repeat(visible_bt, self.heads // self.kv_heads, 1)
        visible = (jnp.arange(cache.k.shape[2]) < visible_bm[..., None])[:, None]
        scores = jnp.where(visible, scores * self.head_dim**-0.5, masking.MASKED)
        weights = jax.nn.softmax(scores, -1).astype(cache.v.dtype)
        out = jnp.einsum("bkms,bksh->bkmh", weights, cache.v)
        return self.o_proj(einops.rearrange(out, "b k (t g) h -> b t (k g h)", t=count)), cache

    def _project(self, x_btd: Array, rope: Rope) -> tuple[Array, Array, Array]:
        """Rotated q_btnh and k_btkh, and v_btkh."""
        q, k, v = (
            einops.rearrange(proj(x_btd), "b t (n h) -> b t n h", h=self.head_dim)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        return rotate(self.q_norm(q), rope), rotate(self.k_norm(k), rope), v
