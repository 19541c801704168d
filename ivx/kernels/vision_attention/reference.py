"""Reference attention within slices with all scores, for tests in any precision."""

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
    """Bidirectional attention among patches with the same slice id; padding (slice 0) yields 0."""
    scores = jnp.einsum("bxnh,bynh->bnxy", q_bxnh, k_bxnh) * q_bxnh.shape[-1] ** -0.5
    same = (slices_bx[:, None, :, None] == slices_bx[:, None, None, :]) & (slices_bx > 0)[
        :, None, None
    ]
    weights = jax.nn.softmax(jnp.where(same, scores, MASKED), -1)
    out = jnp.einsum("bnxy,bynh->bxnh", weights, v_bxnh)
    return jnp.where((slices_bx > 0)[..., None, None], out, 0)
