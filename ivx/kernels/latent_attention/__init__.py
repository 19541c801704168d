"""Latent attention (M2LA) over a whole sequence, for training and prefill.

    [k_nope, v] = latent W_up                                           per head, R -> H + H
    scores      = (q_nope . k_nope + q_rope . k_rope) / sqrt(H + P)     one k_rope for all heads
    out         = softmax(scores over earlier tokens of the segment) v

In InternVideo3 this is `MultiLatentAttention.forward`.

Shapes: q_nope_btnh, q_rope_btnp, latent_btr, k_rope_btp, w_up_rnk with k = H (key) + H (value),
out_btnh.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ivx.kernels import dense_attention


def latent_attention(
    q_nope_btnh: Float[Array, "b t n h"],
    q_rope_btnp: Float[Array, "b t n p"],
    latent_btr: Float[Array, "b t r"],
    k_rope_btp: Float[Array, "b t p"],
    w_up_rnk: Float[Array, "r n k"],
    segments_bt: Int[Array, "b t"],
) -> Float[Array, "b t n h"]:
    """Attention of every token over the earlier tokens of its segment.

    Keys and values are made from the latent; rope parts come rotated. Softmax is in float32, the
    rest in the dtype of the inputs.
    """
    heads, nope = q_nope_btnh.shape[2:]
    up_btnk = jnp.einsum("btr,rnk->btnk", latent_btr, w_up_rnk)
    k_nope_btnh, v_btnh = up_btnk[..., :nope], up_btnk[..., nope:]
    k_rope_btnp = jnp.broadcast_to(
        k_rope_btp[:, :, None], (*k_rope_btp.shape[:2], heads, k_rope_btp.shape[-1])
    )
    q = jnp.concatenate([q_nope_btnh, q_rope_btnp], -1)
    k = jnp.concatenate([k_nope_btnh, k_rope_btnp], -1)
    return dense_attention.causal_attention(q, k, v_btnh, segments_bt, scale=q.shape[-1] ** -0.5)
