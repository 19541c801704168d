"""Absorbed latent attention of one new token over a latent cache: no keys or values are made.

    q_latent = q_nope W_key^T                  per head, H -> R
    scores   = (q_latent . latent + q_rope . k_rope) / sqrt(H + P)
    out      = (softmax(scores) latent) W_value

The same numbers as `latent_attention` (InternVideo3 `MultiLatentAttention.decoding`), at R + P
numbers a token read from memory.

Shapes: q_nope_bnh, q_rope_bnp, latent_bsr, k_rope_bsp, w_up_rnk with k = H (key) + H (value),
out_bnh.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ivx.kernels import masking


def latent_decode(
    q_nope_bnh: Float[Array, "b n h"],
    q_rope_bnp: Float[Array, "b n p"],
    latent_bsr: Float[Array, "b s r"],
    k_rope_bsp: Float[Array, "b s p"],
    w_up_rnk: Float[Array, "r n k"],
    lengths_b: Int[Array, " b"],
) -> Float[Array, "b n h"]:
    """Attention of one query per sequence over the first `lengths_b` entries of its cache.

    Softmax is in float32.
    """
    nope = q_nope_bnh.shape[-1]
    q_latent_bnr = jnp.einsum("bnh,rnh->bnr", q_nope_bnh, w_up_rnk[..., :nope])
    scores_bns = jnp.einsum(
        "bnr,bsr->bns", q_latent_bnr, latent_bsr, preferred_element_type=jnp.float32
    )
    scores_bns += jnp.einsum(
        "bnp,bsp->bns", q_rope_bnp, k_rope_bsp, preferred_element_type=jnp.float32
    )
    scores_bns *= (nope + q_rope_bnp.shape[-1]) ** -0.5
    valid_bs = jnp.arange(latent_bsr.shape[1]) < lengths_b[:, None]
    weights_bns = jax.nn.softmax(jnp.where(valid_bs[:, None], scores_bns, masking.MASKED), -1)
    context_bnr = jnp.einsum("bns,bsr->bnr", weights_bns.astype(latent_bsr.dtype), latent_bsr)
    return jnp.einsum("bnr,rnh->bnh", context_bnr, w_up_rnk[..., nope:])
