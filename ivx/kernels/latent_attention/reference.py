"""Reference latent attention, for tests: no blocks, any float dtype, softmax in that dtype."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ivx.kernels.dense_attention import reference


def latent_attention(
    q_nope_btnh: Float[Array, "b t n h"],
    q_rope_btnp: Float[Array, "b t n p"],
    latent_btr: Float[Array, "b t r"],
    k_rope_btp: Float[Array, "b t p"],
    w_up_rnk: Float[Array, "r n k"],
    segments_bt: Int[Array, "b t"],
    key_norm: Callable[[Array], Array] | None = None,
) -> Float[Array, "b t n h"]:
    """Same contract as the public op; materializes scores [B, N, T, T]."""
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
