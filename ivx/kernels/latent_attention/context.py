"""Latent attention under a mesh, where packs may be cut in the order of `ivx.parallel.zigzag`.

Queries stay where they are. The latent, R + P numbers a token, is gathered along `context`, and
each device makes the keys and values of its heads from it, a group at a time; the gradient of the
latent is summed over devices and scattered.

    device i:  q of chunks i, 2 n - 1 - i   x   latent of all chunks   ->   out of its own chunks

Heads lie over `tensor` and packs over `replica` and `fsdp`; nothing travels along these.
"""

from collections.abc import Callable

import jax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from ivx.kernels.dense_attention.visits import Seen, earlier_in_sample
from ivx.parallel import zigzag


def spread_latent_attention(
    attend: Callable[..., Array],
    mesh: Mesh,
    q_nope_btnh: Float[Array, "b t n h"],
    q_rope_btnp: Float[Array, "b t n p"],
    latent_btr: Float[Array, "b t r"],
    k_rope_btp: Float[Array, "b t p"],
    w_up_rnk: Float[Array, "r n k"],
    segments_bt: Int[Array, "b t"],
) -> Float[Array, "b t n h"]:
    """Runs `attend` on every device.

    Args:
      attend: of queries, latents and rope keys of whole packs, weights, and what the queries see.
      mesh: of the axes `replica, fsdp, tensor, context`.
      q_nope_btnh: queries without rope; tokens in zigzag order here and below.
      q_rope_btnp: queries, rotated.
      latent_btr: what keys and values are made from.
      k_rope_btp: the key that all heads share, rotated.
      w_up_rnk: what makes them.
      segments_bt: sample of each token.
    """

    def one(q_nope, q_rope, latent, k_rope, w_up, segments):
        latent, k_rope, segments = (zigzag.gather(a) for a in (latent, k_rope, segments))
        seen = Seen(*(zigzag.own(a) for a in earlier_in_sample(segments)))
        return attend(q_nope, q_rope, latent, k_rope, w_up, seen)

    batch = q_nope_btnh.shape[0]
    queries = zigzag.spec(mesh, batch, zigzag.CONTEXT, "tensor")
    tokens = zigzag.spec(mesh, batch, zigzag.CONTEXT)
    return jax.shard_map(
        one,
        mesh=mesh,
        in_specs=(queries, queries, tokens, tokens, PartitionSpec(None, "tensor"), tokens),
        out_specs=queries,
        check_vma=False,
    )(q_nope_btnh, q_rope_btnp, latent_btr, k_rope_btp, w_up_rnk, segments_bt)
