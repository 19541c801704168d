"""Multimodal multi-head latent attention (M2LA), parameterized as in the released checkpoint.

    q            = x W_q + b_q                 N heads of [H without rope | P with rope]
    latent, rope = split(x W_kv_a + b_kv_a)    shared latent [R], shared rope key [P]
    keys, values = latent W_kv_b               N heads of [H | H]

No QK-norm; scale 1 / sqrt(H + P). The cache holds [latent | rotated rope key], R + P numbers per
token. HF names: self_attn.{q_proj, kv_a_proj_with_mqa, kv_b_proj, o_proj}.
"""

import einops
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from ivx.kernels.latent_attention import latent_attention
from ivx.kernels.latent_decode import latent_decode
from ivx.kernels.latent_decode.cache import LatentCache, PagedCache
from ivx.models.cache import append
from ivx.models.layers import linear
from ivx.models.rope import Rope, rotate_pairs
from ivx.models.spec import TextSpec
from ivx.parallel import remat


class LatentAttention(nnx.Module):
    """One layer's attention with a latent cache."""

    def __init__(self, spec: TextSpec, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.heads, self.head_dim, self.rank = spec.heads, spec.head_dim, spec.kv_rank
        wide, both = spec.heads * spec.head_dim, 2 * spec.heads * spec.head_dim
        out_scale = 0.5 / spec.depth
        heads = {"head": 2 * spec.head_dim, "rngs": rngs, "dtype": dtype}
        self.q_proj = linear(spec.width, both, ("embed", "heads"), bias=True, **heads)
        self.kv_a_proj = linear(
            spec.width,
            spec.kv_rank + spec.head_dim,
            ("embed", None),
            bias=True,
            rngs=rngs,
            dtype=dtype,
        )
        self.kv_b_proj = linear(spec.kv_rank, both, ("rank", "heads"), **heads)
        heads["head"] = spec.head_dim
        self.o_proj = linear(wide, spec.width, ("heads", "embed"), scale=out_scale, **heads)

    def __call__(
        self, x_btd: Float[Array, "b t d"], rope: Rope, segments_bt: Int[Array, "b t"]
    ) -> tuple[Float[Array, "b t o"], LatentCache]:
        """Attends over a full sequence; also returns its cache."""
        q_nope, q_rope, latent, k_rope = self._project(x_btd, rope)
        out_btnh = latent_attention(q_nope, q_rope, latent, k_rope, self._up_rnk(), segments_bt)
        cache = LatentCache(jnp.concatenate([latent, k_rope], -1))
        return self.o_proj(einops.rearrange(out_btnh, "b t n h -> b t (n h)")), cache

    def decode(
        self,
        x_btd: Float[Array, "b t d"],
        rope: Rope,
        cache: LatentCache | PagedCache,
        lengths_b: Int[Array, " b"],
    ) -> tuple[Float[Array, "b t o"], LatentCache | PagedCache]:
        """Attends with T new tokens per sequence, whose entries are written at `lengths_b`."""
        q_nope, q_rope, latent, k_rope = self._project(x_btd, rope)
        new_bte = jnp.concatenate([latent, k_rope], -1)
        cache = append(cache, new_bte, lengths_b)
        out_btnh = latent_decode(q_nope, q_rope, cache, self._up_rnk(), lengths_b)
        return self.o_proj(einops.rearrange(out_btnh, "b t n h -> b t (n h)")), cache

    def _project(self, x_btd: Array, rope: Rope) -> tuple[Array, Array, Array, Array]:
        """q_nope_btnh, q_rope_btnp (rotated), latent_btr and k_rope_btp (rotated)."""
        q_btnk = einops.rearrange(self.q_proj(x_btd), "b t (n k) -> b t n k", n=self.heads)
        q_nope, q_rope = (
            q_btnk[..., : self.head_dim],
            rotate_pairs(q_btnk[..., self.head_dim :], rope),
        )
        kv_a = self.kv_a_proj(x_btd)
        k_rope = rotate_pairs(kv_a[:, :, None, self.rank :], rope)[:, :, 0]
        latent, k_rope = (
            remat.named(part, remat.LATENT) for part in (kv_a[..., : self.rank], k_rope)
        )
        return q_nope, q_rope, latent, k_rope

    def _up_rnk(self) -> Array:
        """kv_b_proj by head: [R, N, H (key) + H (value)]."""
        kernel = self.kv_b_proj.kernel[...].astype(self.kv_b_proj.dtype)
        return einops.rearrange(kernel, "r (n k) -> r n k", n=self.heads)
