"""Causal attention within segments on explicit keys and values, by query blocks: for CPU and GPU.

A block of queries looks only at the keys up to its own end, so that half of the score matrix is
never made. A backward pass keeps the weights of every block of its layer.

Shapes: q_btnh, k_btnh with S = T, v_btnv; scores in float32.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ivx.kernels import masking

QUERY_BLOCK = 128


def causal_attention(
    q_btnh: Float[Array, "b t n h"],
    k_btnh: Float[Array, "b t n h"],
    v_btnv: Float[Array, "b t n v"],
    segments_bt: Int[Array, "b t"],
    scale: float,
    block: int = QUERY_BLOCK,
) -> Float[Array, "b t n v"]:
    """softmax(scale * q k^T) v, each query over the earlier tokens of its segment.

    Keys may be wider than values.
    """
    outputs = []
    for first in range(0, q_btnh.shape[1], block):
        last = min(first + block, q_btnh.shape[1])
        scores = jnp.einsum(
            "btnh,bsnh->bnts",
            q_btnh[:, first:last],
            k_btnh[:, :last],
            preferred_element_type=jnp.float32,
        )
        mask = masking.causal_segments(segments_bt[:, first:last], segments_bt[:, :last], first)
        weights = jax.nn.softmax(jnp.where(mask, scores * scale, masking.MASKED), -1)
        outputs.append(
            jnp.einsum("bnts,bsnv->btnv", weights.astype(v_btnv.dtype), v_btnv[:, :last])
        )
    return jnp.concatenate(outputs, 1)
