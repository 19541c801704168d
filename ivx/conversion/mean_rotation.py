"""Approximation 3: the mean rotation over attended keys replaces the rope that other heads lose.

A score rotates pair j of a key by exp(i (a_key - a_query)). Without rope a constant t must replace
this factor for all pairs of tokens. t = 1 is exact if nothing rotates, and wrong if a frequency
completes a turn within the distances that are attended to. The constant with the least mean error
over what head n attends to is

    t_nj = mean over queries of  sum over keys  p(query, key) exp(i (a_key - a_query))

with p the attention weights of the source. It is about 1 for slow frequencies and near 0 for fast
ones. It costs one more attention, with cos and sin of the angles as values.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ivx.kernels import dense_attention
from ivx.models.rope import Rope


def sum_rotations(
    q_btnh: Float[Array, "b t n h"],
    k_btkh: Float[Array, "b t k h"],
    rope: Rope,
    segments_bt: Int[Array, "b t"],
) -> Float[Array, "2 n half"]:
    """Sum of the mean rotations over the tokens of all samples: real and imaginary part, float32.

    Args:
      q_btnh, k_btkh: queries and keys after rope.
      rope: rotation tables of the tokens.
      segments_bt: sample of each token, 0 for padding.
    """
    table_bth = jnp.concatenate([rope.cos, rope.sin], -1).astype(q_btnh.dtype)
    values_btkh = jnp.broadcast_to(table_bth[:, :, None], k_btkh.shape)
    attended_btnh = dense_attention.causal_attention(
        q_btnh, k_btkh, values_btkh, segments_bt, q_btnh.shape[-1] ** -0.5
    )
    key_cos, key_sin = jnp.split(attended_btnh.astype(jnp.float32), 2, -1)
    cos, sin = rope.cos[:, :, None], rope.sin[:, :, None]
    rotation = jnp.stack([cos * key_cos + sin * key_sin, cos * key_sin - sin * key_cos])
    is_token = (segments_bt > 0)[:, :, None, None]
    return jnp.where(is_token, rotation, 0).sum((1, 2))
