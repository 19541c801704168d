"""Latent attention that keeps the source's QK-norm and rope; a variant that is not in the paper.

    q            = rope(norm(x W_q))                       N heads, as in grouped attention
    k, v         = rope(norm(x W_k)), x W_v                K heads, what grouped attention caches
    latent, rest = split([k; v] W_kv_a)                    [R] and [P], shared by all heads; cached
    keys         = latent W_kv_b (key part) + rest W_n^T   W_n: `q_rope_proj` of head n
    values       = latent W_kv_b (value part)

Keys are normalized and rotated before the projection, so the map from cache to scores is linear and
independent of positions. If R + P numbers can represent all of [k; v], the layer equals its source.
The cache has the size of M2LA's, and the kernels are the same: q is the query part without rope,
q W_n is the part with rope, and neither is rotated again.

The scale is the source's, 1 / sqrt(H). The kernels divide by sqrt(2 H), so q is multiplied by
sqrt(2). HF names: self_attn.{q,k,v,o}_proj, {q,k}_norm, kv_a_proj_with_mqa, kv_b_proj, q_rope_proj.
"""

import einops
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array

from ivx.models.latent_attention import LatentAttention
from ivx.models.layers import linear, rms_norm
from ivx.models.rope import Rope, rotate
from ivx.models.spec import TextSpec
from ivx.parallel.sharding import AXES


class ExactLatentAttention(LatentAttention):
    """One layer's attention with a latent cache of normalized, rotated keys."""

    def __init__(self, spec: TextSpec, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.heads, self.head_dim, self.rank = spec.heads, spec.head_dim, spec.kv_rank
        wide, narrow = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
        options = {"rngs": rngs, "dtype": dtype}
        self.q_proj = linear(spec.width, wide, ("embed", "heads"), **options)
        self.k_proj = linear(spec.width, narrow, ("embed", "kv_heads"), **options)
        self.v_proj = linear(spec.width, narrow, ("embed", "kv_heads"), **options)
        self.q_norm = rms_norm(spec.head_dim, None, spec.norm_eps, dtype, rngs)
        self.k_norm = rms_norm(spec.head_dim, None, spec.norm_eps, dtype, rngs)
        entry = spec.kv_rank + spec.head_dim
        self.kv_a_proj = linear(2 * narrow, entry, (None, None), **options)
        self.kv_b_proj = linear(spec.kv_rank, 2 * wide, ("rank", "heads"), **options)
        self.q_rope_proj = _PerHeadLinear(spec.heads, spec.head_dim, dtype, rngs)
        self.o_proj = linear(
            wide, spec.width, ("heads", "embed"), scale=0.5 / spec.depth, **options
        )

    def _project(self, x_btd: Array, rope: Rope) -> tuple[Array, Array, Array, Array]:
        """q_nope_btnh, q_rope_btnp and the cache entry: latent_btr and rest_btp."""
        q, k, v = (
            einops.rearrange(proj(x_btd), "b t (n h) -> b t n h", h=self.head_dim)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        q_btnh = rotate(self.q_norm(q), rope) * 2**0.5
        k_btkh = rotate(self.k_norm(k), rope)
        kv_bto = einops.rearrange(
            jnp.concatenate([k_btkh, v], 2), "b t k h -> b t (k h)", h=self.head_dim
        )
        entry = self.kv_a_proj(kv_bto)
        latent, rest = entry[..., : self.rank], entry[..., self.rank :]
        return q_btnh, self.q_rope_proj(q_btnh), latent, rest


class _PerHeadLinear(nnx.Module):
    """A separate linear map for each head, [N, H, P]."""

    def __init__(self, heads: int, width: int, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.dtype = dtype
        init = nnx.initializers.variance_scaling(1.0, "fan_in", "normal", batch_axis=0)
        self.kernel = nnx.Param(
            init(rngs.params(), (heads, width, width), jnp.float32), **{AXES: ("heads", None, None)}
        )

    def __call__(self, q_btnh: Array) -> Array:
        return jnp.einsum("btnh,nhp->btnp", q_btnh, self.kernel[...].astype(self.dtype))
