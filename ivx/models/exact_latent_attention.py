"""Latent attention that keeps the QK-norm and the rope of its source: a variant beyond the paper.

    q            = rope(norm(x W_q))                       N heads, as in grouped attention
    k, v         = rope(norm(x W_k)), x W_v                K heads, what grouped attention caches
    latent, rest = split([k; v] W_kv_a)                    R and P shared numbers: what is cached
    keys         = latent W_kv_b (key part) + rest W_n^T   W_n: `q_rope_proj`, one a head
    values       = latent W_kv_b (value part)

Keys are normed and rotated before they are projected, so that nothing non-linear and no position
stands between the cache and a score: where R + P numbers hold all of [k; v], the layer is its
source. The cache is as large as that of M2LA, and the kernels are the same: queries without rope
are q, those with are q W_n, and neither turns any more.

Scale 1 / sqrt(H), that of the source; the kernels divide by sqrt(2 H), so that q is multiplied by
sqrt(2). HF names: self_attn.{q,k,v,o}_proj, {q,k}_norm, kv_a_proj_with_mqa, kv_b_proj, q_rope_proj.
"""

import einops
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from ivx.models.latent_attention import LatentAttention
from ivx.models.linear import linear
from ivx.models.rope import Rope, rotate
from ivx.models.spec import TextSpec
from ivx.parallel.rules import AXES


class ExactLatentAttention(LatentAttention):
    """One layer's attention with a latent cache of normed, rotated keys."""

    def __init__(self, spec: TextSpec, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.heads, self.head_dim, self.rank = spec.heads, spec.head_dim, spec.kv_rank
        wide, narrow = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
        made = {"rngs": rngs, "dtype": dtype}
        self.q_proj = linear(spec.width, wide, ("embed", "heads"), **made)
        self.k_proj = linear(spec.width, narrow, ("embed", "kv_heads"), **made)
        self.v_proj = linear(spec.width, narrow, ("embed", "kv_heads"), **made)
        norm = {"epsilon": spec.norm_eps, "scale_metadata": {AXES: (None,)}, **made}
        self.q_norm = nnx.RMSNorm(spec.head_dim, **norm)
        self.k_norm = nnx.RMSNorm(spec.head_dim, **norm)
        kept = spec.kv_rank + spec.head_dim
        self.kv_a_proj = linear(2 * narrow, kept, (None, None), **made)
        self.kv_b_proj = linear(spec.kv_rank, 2 * wide, ("rank", "heads"), **made)
        self.q_rope_proj = _ByHead(spec.heads, spec.head_dim, dtype, rngs)
        self.o_proj = linear(wide, spec.width, ("heads", "embed"), scale=0.5 / spec.depth, **made)

    def _project(self, x_btd: Array, rope: Rope) -> tuple[Array, Array, Array, Array]:
        """q_nope_btnh, q_rope_btnp and what the cache keeps: latent_btr and the rest, [B, T, P]."""
        q, k, v = (
            einops.rearrange(proj(x_btd), "b t (n h) -> b t n h", h=self.head_dim)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        q_btnh = rotate(self.q_norm(q), rope) * 2**0.5
        k_btkh = rotate(self.k_norm(k), rope)
        whole_bto = einops.rearrange(
            jnp.concatenate([k_btkh, v], 2), "b t k h -> b t (k h)", h=self.head_dim
        )
        kept = self.kv_a_proj(whole_bto)
        latent, rest = kept[..., : self.rank], kept[..., self.rank :]
        return q_btnh, self.q_rope_proj(q_btnh), latent, rest


class _ByHead(nnx.Module):
    """A map of every head for itself, [N, H, P]."""

    def __init__(self, heads: int, width: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.dtype = dtype
        init = nnx.initializers.variance_scaling(1.0, "fan_in", "normal", batch_axis=0)
        self.kernel = nnx.Param(
            init(rngs.params(), (heads, width, width), jnp.float32), **{AXES: ("heads", None, None)}
        )

    def __call__(self, q_btnh: Array) -> Array:
        return jnp.einsum("btnh,nhp->btnp", q_btnh, self.kernel[...].astype(self.dtype))
