"""Absorbed latent attention of new tokens over a latent cache: no keys or values are made.

    q       = [q_nope W_key^T | q_rope]              per head, H + P -> R + P = E
    scores  = q . entry / sqrt(H + P)
    context = softmax(scores) latent                 R
    out     = context W_value                        R -> H

The same numbers as `latent_attention` (InternVideo3 `MultiLatentAttention.decoding`), at R + P
numbers a token read from memory.

Shapes: q_nope_btnh, q_rope_btnp, entries_bse with E = R (latent) + P (rope key), w_up_rnk with
k = H (key) + H (value), out_btnh.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from ivx.kernels import choice
from ivx.kernels.latent_decode import tpu, xla
from ivx.kernels.latent_decode.cache import LatentCache, PagedCache, capacity
from ivx.kernels.latent_decode.merge import Attended, merge_over
from ivx.parallel import zigzag


def latent_decode(
    q_nope_btnh: Float[Array, "b t n h"],
    q_rope_btnp: Float[Array, "b t n p"],
    cache: LatentCache | PagedCache,
    w_up_rnk: Float[Array, "r n k"],
    lengths_b: Int[Array, " b"],
) -> Float[Array, "b t n h"]:
    """Attention of the T newest tokens of each sequence, whose entries the cache already holds.

    Token t sees the first `lengths_b + t + 1` entries: T = 1 is plain decoding, more are a chunk of
    a prompt or a draft to be checked. A token that sees none, its length being negative, gets
    zeros. Softmax is in float32, the rest in the dtype of the queries.
    """
    mesh = zigzag.current_mesh()
    arrays = q_nope_btnh, q_rope_btnp, cache, w_up_rnk, lengths_b
    if mesh is not None and (zigzag.shards() > 1 or choice.wanted() == "tpu"):
        return _spread(mesh, *arrays)
    return _attend(*arrays).context


def latent_decode_over(
    axis: str,
    q_nope_btnh: Float[Array, "b t n h"],
    q_rope_btnp: Float[Array, "b t n p"],
    cache: LatentCache,
    w_up_rnk: Float[Array, "r n k"],
    lengths_b: Int[Array, " b"],
) -> Float[Array, "b t n h"]:
    """`latent_decode` with the cache in equal runs along mesh axis `axis`, inside `shard_map`.

    Each device attends over its run; what travels is the output of heads, H numbers each, not the
    R of the latent. `lengths_b` counts entries of the whole cache and is the same everywhere, as
    are queries and weights.
    """
    here_b = lengths_b - jax.lax.axis_index(axis) * capacity(cache)
    found = _attend(q_nope_btnh, q_rope_btnp, cache, w_up_rnk, here_b)
    return merge_over(axis, found).context


def _spread(mesh: Mesh, q_nope_btnh, q_rope_btnp, cache, w_up_rnk, lengths_b) -> Array:
    """`latent_decode` on every device: sequences over `replica` and `fsdp`, heads over `tensor`.

    Rows of entries lie over `context`; pages, which sequences share, are whole on each device.
    """
    place = functools.partial(zigzag.spec, mesh, lengths_b.shape[0])
    if isinstance(cache, PagedCache):
        one = lambda *arrays: _attend(*arrays).context  # noqa: E731
        scales = None if cache.scales is None else PartitionSpec()
        stored = PagedCache(PartitionSpec(), place(), scales)
    else:
        one = functools.partial(latent_decode_over, zigzag.CONTEXT)
        scales = None if cache.scales is None else place(None, zigzag.CONTEXT)
        stored = LatentCache(place(zigzag.CONTEXT), scales)
    heads = place(None, "tensor")
    return jax.shard_map(
        one,
        mesh=mesh,
        in_specs=(heads, heads, stored, PartitionSpec(None, "tensor"), place()),
        out_specs=heads,
        check_vma=False,
    )(q_nope_btnh, q_rope_btnp, cache, w_up_rnk, lengths_b)


def _attend(q_nope_btnh, q_rope_btnp, cache, w_up_rnk, lengths_b) -> Attended:
    """Outputs of heads [B, T, N, H] and their log-sum-exp."""
    nope, rank = q_nope_btnh.shape[-1], w_up_rnk.shape[0]
    scale = (nope + q_rope_btnp.shape[-1]) ** -0.5
    q_latent_btnr = jnp.einsum("btnh,rnh->btnr", q_nope_btnh, w_up_rnk[..., :nope])
    q_btne = jnp.concatenate([q_latent_btnr, q_rope_btnp], -1)
    arrays = q_btne, cache, lengths_b, rank, scale
    untaken = tpu.constraint(cache, rank)
    if choice.pick("latent_decode", not untaken, untaken) == "tpu":
        found = tpu.attend(*arrays, interpret=choice.interpret())
    else:
        found = xla.attend(*arrays)
    out_btnh = jnp.einsum("btnr,rnh->btnh", found.context, w_up_rnk[..., nope:])
    return Attended(out_btnh, found.lse)
