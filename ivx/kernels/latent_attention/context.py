"""Latent attention under a mesh that may split packs along `context` (`ivx.parallel.zigzag`).

Queries stay on their device. The latent (R + P numbers per token) is all-gathered along `context`,
and each device computes the keys and values of its heads from it, one group at a time. The gradient
of the latent is reduce-scattered.

    device i:  q of chunks i, 2 n - 1 - i   x   latent of all chunks   ->   out of the same chunks

Heads are sharded over `tensor`, packs over `replica` and `fsdp`; neither needs communication.
"""

from collections.abc import Callable

import jax
from jax.sharding import AbstractMesh, PartitionSpec
from jaxtyping import Array, Float, Int

from ivx.kernels.dense_attention.visits import KeyRange, causal_key_range
from ivx.parallel import zigzag


def attend_on_mesh(
    attend: Callable[..., Array],
    mesh: AbstractMesh,
    q_nope_btnh: Float[Array, "b t n h"],
    q_rope_btnp: Float[Array, "b t n p"],
    latent_btr: Float[Array, "b t r"],
    k_rope_btp: Float[Array, "b t p"],
    w_up_rnk: Float[Array, "r n k"],
    segments_bt: Int[Array, "b t"],
) -> Float[Array, "b t n h"]:
    """Runs `attend` on every device.

    Args:
      attend: takes queries, latents and rope keys of full packs, weights, and the key ranges.
      mesh: a mesh with the axes `replica, fsdp, tensor, context`.
      q_nope_btnh: the part of the queries without rope; all tokens are in zigzag order.
      q_rope_btnp: the part of the queries with rope, rotated.
      latent_btr: shared latent of keys and values.
      k_rope_btp: rotated key part that all heads share.
      w_up_rnk: up-projection from the latent to keys and values.
      segments_bt: sample id of each token.
    """

    def local(
        q_nope: Array, q_rope: Array, latent: Array, k_rope: Array, w_up: Array, segments: Array
    ) -> Array:
        latent, k_rope, segments = (zigzag.gather(a) for a in (latent, k_rope, segments))
        key_range = KeyRange(*(zigzag.local_chunks(a) for a in causal_key_range(segments)))
        return attend(q_nope, q_rope, latent, k_rope, w_up, key_range)

    batch = q_nope_btnh.shape[0]
    queries = zigzag.spec(mesh, batch, zigzag.CONTEXT, "tensor")
    tokens = zigzag.spec(mesh, batch, zigzag.CONTEXT)
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(queries, queries, tokens, tokens, PartitionSpec(None, "tensor"), tokens),
        out_specs=queries,
        check_vma=False,
    )(q_nope_btnh, q_rope_btnp, latent_btr, k_rope_btp, w_up_rnk, segments_bt)
