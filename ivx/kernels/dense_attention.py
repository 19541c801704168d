"""Causal attention within segments on explicit keys and values, by query blocks: for CPU and GPU.

A block of queries looks only at the keys up to its own end, so that half of the score matrix is
never made. Query heads that share a key-value head are rows of one product, so that keys and values
are not repeated. A backward pass keeps the weights of every block of its layer.

Shapes: q_btnh, k_btkh with S = T, v_btkv, N = K G; scores in float32.
"""

import einops
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ivx.kernels import masking

QUERY_BLOCK = 128


def causal_attention(
    q_btnh: Float[Array, "b t n h"],
    k_btkh: Float[Array, "b t k h"],
    v_btkv: Float[Array, "b t k v"],
    segments_bt: Int[Array, "b t"],
    scale: float,
    block: int = QUERY_BLOCK,
) -> Float[Array, "b t n v"]:
    """softmax(scale * q k^T) v, each query over the earlier tokens of its segment.

    Keys may be wider than values.
    """
    q_bkgth = einops.rearrange(q_btnh, "b t (k g) h -> b k g t h", k=k_btkh.shape[2])
    k_bksh, v_bksv = (einops.rearrange(a, "b s k h -> b k s h") for a in (k_btkh, v_btkv))
    outputs = []
    for first in range(0, q_btnh.shape[1], block):
        last = min(first + block, q_btnh.shape[1])
        scores = jnp.einsum(
            "bkgth,bksh->bkgts",
            q_bkgth[:, :, :, first:last],
            k_bksh[:, :, :last],
            preferred_element_type=jnp.float32,
        )
        mask = masking.causal_segments(segments_bt[:, first:last], segments_bt[:, :last], first)
        weights = jax.nn.softmax(jnp.where(mask[:, None], scores * scale, masking.MASKED), -1)
        outputs.append(
            jnp.einsum("bkgts,bksv->bkgtv", weights.astype(v_bksv.dtype), v_bksv[:, :, :last])
        )
    return einops.rearrange(jnp.concatenate(outputs, 3), "b k g t v -> b t (k g) v")
