"""Latent attention written out, for tests: no blocks, any float dtype, softmax in that dtype."""

import jax.numpy as jnp

from ivx.kernels.dense_attention import reference


def latent_attention(
    q_nope_btnh, q_rope_btnp, latent_btr, k_rope_btp, w_up_rnk, segments_bt, key_norm=None
):
    """As the op of this folder; scores [B, N, T, T] are whole in memory."""
    nope = q_nope_btnh.shape[-1]
    real_bt1 = (segments_bt > 0)[..., None]
    latent, k_rope = (jnp.where(real_bt1, a, 0) for a in (latent_btr, k_rope_btp))
    k_nope = jnp.einsum("bsr,rnh->bsnh", latent, w_up_rnk[..., :nope])
    value = jnp.einsum("bsr,rnh->bsnh", latent, w_up_rnk[..., nope:])
    if key_norm is not None:
        k_nope = key_norm(k_nope)
    k_rope = jnp.broadcast_to(k_rope[:, :, None], (*k_nope.shape[:3], k_rope.shape[-1]))
    q = jnp.concatenate([q_nope_btnh, q_rope_btnp], -1)
    k = jnp.concatenate([k_nope, k_rope], -1)
    return reference.causal_attention(q, k, value, segments_bt, q.shape[-1] ** -0.5)
