"""Causal attention within segments written out, for tests: scores [B, N, T, T] are whole."""

import jax
import jax.numpy as jnp


def causal_attention(q_btnh, k_btkh, v_btkv, segments_bt, scale):
    """As the op of this folder, in the dtype of the inputs; rows of padding are 0."""
    shared = q_btnh.shape[2] // k_btkh.shape[2]
    real = segments_bt > 0
    q, k, v = (jnp.where(real[..., None, None], a, 0) for a in (q_btnh, k_btkh, v_btkv))
    k, v = (jnp.repeat(a, shared, 2) for a in (k, v))
    scores = jnp.einsum("btnh,bsnh->bnts", q, k) * scale
    earlier = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    same = segments_bt[:, :, None] == segments_bt[:, None, :]
    weights = jax.nn.softmax(jnp.where((earlier & same)[:, None], scores, -jnp.inf), -1)
    out = jnp.einsum("bnts,bsnv->btnv", weights, v)
    return jnp.where(real[..., None, None], out, 0)
