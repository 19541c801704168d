"""Attention within slices with every score made: to read, and to test against in any precision."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ivx.kernels.masking import MASKED


def vision_attention(
    q_bxnh: Float[Array, "b x n h"],
    k_bxnh: Float[Array, "b x n h"],
    v_bxnh: Float[Array, "b x n h"],
    slices_bx: Int[Array, "b x"],
) -> Float[Array, "b x n h"]:
    """Non-causal attention of patches of equal slice number; 0 for those of slice 0, padding."""
    scores = jnp.einsum("bxnh,bynh->bnxy", q_bxnh, k_bxnh) * q_bxnh.shape[-1] ** -0.5
    same = (slices_bx[:, None, :, None] == slices_bx[:, None, None, :]) & (slices_bx > 0)[
        :, None, None
    ]
    weights = jax.nn.softmax(jnp.where(same, scores, MASKED), -1)
    out = jnp.einsum("bnxy,bynh->bxnh", weights, v_bxnh)
    return jnp.where((slices_bx > 0)[..., None, None], out, 0)
