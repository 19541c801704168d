"""Latent attention written out, for tests: no blocks, any float dtype, softmax in that dtype."""

import jax
import jax.numpy as jnp


def latent_attention(q_nope_btnh, q_rope_btnp, latent_btr, k_rope_btp, w_up_rnk, segments_bt):
    """As the op of this folder; scores [B, N, T, T] are whole in memory."""
    nope = q_nope_btnh.shape[-1]
    k_nope = jnp.einsum("bsr,rnh->bsnh", latent_btr, w_up_rnk[..., :nope])
    value = jnp.einsum("bsr,rnh->bsnh", latent_btr, w_up_rnk[..., nope:])
    scores = jnp.einsum("btnh,bsnh->bnts", q_nope_btnh, k_nope) + jnp.einsum(
        "btnp,bsp->bnts", q_rope_btnp, k_rope_btp
    )
    scores = scores / jnp.sqrt(nope + q_rope_btnp.shape[-1])
    earlier = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    same = segments_bt[:, None, :, None] == segments_bt[:, None, None, :]
    weights = jax.nn.softmax(jnp.where(earlier & same, scores, -jnp.inf), -1)
    return jnp.einsum("bnts,bsnh->btnh", weights, value)
