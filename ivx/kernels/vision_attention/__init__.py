"""Attention among the patches of one slice (two frames), for every slice of a pack at once.

Patches lie in blocks of `block` rows that no slice straddles, so scores are made within blocks
only: [B, X / block, N, block, block], with a mask that keeps slices apart.

Shapes: q_bxnh, k_bxnh, v_bxnh, slices_bx, out_bxnh.
"""

import einops
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ivx.kernels import masking


def vision_attention(
    q_bxnh: Float[Array, "b x n h"],
    k_bxnh: Float[Array, "b x n h"],
    v_bxnh: Float[Array, "b x n h"],
    slices_bx: Int[Array, "b x"],
    block: int,
) -> Float[Array, "b x n h"]:
    """Non-causal attention of patches of equal slice number; scale 1 / sqrt(H), float32 softmax.

    Args:
      q_bxnh: queries, rotated.
      k_bxnh: keys, rotated.
      v_bxnh: values.
      slices_bx: slice of each patch.
      block: rows that no slice straddles; must divide X, or X must be smaller.
    """
    block = min(block, q_bxnh.shape[1])
    q, k, v = (
        einops.rearrange(a, "b (c x) n h -> b c x n h", x=block) for a in (q_bxnh, k_bxnh, v_bxnh)
    )
    slices = einops.rearrange(slices_bx, "b (c x) -> b c x", x=block)
    scores = (
        jnp.einsum("bcxnh,bcynh->bcnxy", q, k, preferred_element_type=jnp.float32)
        * q.shape[-1] ** -0.5
    )
    same = (slices[:, :, :, None] == slices[:, :, None, :])[:, :, None]
    weights = jax.nn.softmax(jnp.where(same, scores, masking.MASKED), -1)
    out = jnp.einsum("bcnxy,bcynh->bcxnh", weights.astype(v.dtype), v)
    return einops.rearrange(out, "b c x n h -> b (c x) n h")
