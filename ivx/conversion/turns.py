"""What stands for the rope of key heads that lose it: the mean turn of what a query attends to.

A score turns pair j of a key by exp(i (a_key - a_query)). Without rope a number t must stand for
it, the same for all pairs of tokens. t = 1 is right where nothing turns, and wrong wherever a
frequency goes round within the distances that are looked at. The number that misses least, in the
mean over what head n attends to, is

    t_nj = mean over queries of  sum over keys  p(query, key) exp(i (a_key - a_query))

with p the attention of the source: about 1 for slow frequencies, near 0 for fast ones.
It costs one more attention, with cos and sin of the angles for values.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ivx.kernels import dense_attention
from ivx.models.rope import Rope


def total(
    q_btnh: Float[Array, "b t n h"],
    k_btkh: Float[Array, "b t k h"],
    rope: Rope,
    segments_bt: Int[Array, "b t"],
) -> Float[Array, "2 n half"]:
    """Sum over the tokens of all samples of the mean turn: real and imaginary part, float32.

    Args:
      q_btnh, k_btkh: queries and keys, rotated.
      rope: of the tokens.
      segments_bt: 0 where there is no token.
    """
    table_bth = jnp.concatenate([rope.cos, rope.sin], -1).astype(q_btnh.dtype)
    values_btkh = jnp.broadcast_to(table_bth[:, :, None], k_btkh.shape)
    seen_btnh = dense_attention.causal_attention(
        q_btnh, k_btkh, values_btkh, segments_bt, q_btnh.shape[-1] ** -0.5
    )
    cos, sin = jnp.split(seen_btnh.astype(jnp.float32), 2, -1)
    own_cos, own_sin = rope.cos[:, :, None], rope.sin[:, :, None]
    turned = jnp.stack([own_cos * cos + own_sin * sin, own_cos * sin - own_sin * cos])
    real = (segments_bt > 0)[:, :, None, None]
    return jnp.where(real, turned, 0).sum((1, 2))
