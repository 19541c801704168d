"""Reference causal attention within segments, for tests; materializes scores [B, N, T, T]."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def causal_attention(
    q_btnh: Float[Array, "b t n h"],
    k_btkh: Float[Array, "b t k h"],
    v_btkv: Float[Array, "b t k v"],
    segments_bt: Int[Array, "b t"],
    scale: float,
) -> Float[Array, "b t n v"]:
    """Same contract as the public op, in the dtype of the inputs; rows of padding are 0."""
    group = q_btnh.shape[2] // k_btkh.shape[2]
    real = segments_bt > 0
    q, k, v = (jnp.where(real[..., None, None], a, 0) for a in (q_btnh, k_btkh, v_btkv))
    k, v = (jnp.repeat(a, group, 2) for a in (k, v))
    scores = jnp.einsum("btnh,bsnh->bnts", q, k) * scale
    causal = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    same = segments_bt[:, :, None] == segments_bt[:, None, :]
    weights = jax.nn.softmax(jnp.where((causal & same)[:, None], scores, -jnp.inf), -1)
    out = jnp.einsum("bnts,bsnv->btnv", weights, v)
    return jnp.where(real[..., None, None], out, 0)
