"""Absorbed latent attention of new tokens over a latent cache, without keys or values.

    q       = [q_nope W_key^T | q_rope]              per head, H + P -> R + P = E
    scores  = q . entry / sqrt(H + P)
    context = softmax(scores) latent                 R
    out     = context W_value                        R -> H

The result equals `latent_attention` (InternVideo3 `MultiLatentAttention.decoding`), but only R + P
numbers per cached token are read from memory.

Shapes: q_nope_btnh, q_rope_btnp, entries_bse with E = R (latent) + P (rope key), w_up_rnk with
k = H (key) + H (value), out_btnh.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, PartitionSpec
from jaxtyping import Array, Float, Int

from ivx.kernels import choice
from ivx.kernels.latent_decode import tpu, xla
from ivx.kernels.latent_decode.attention_output import AttentionOutput, merge_over
from ivx.kernels.latent_decode.cache import LatentCache, PagedCache, capacity
from ivx.parallel import sharding, zigzag


def latent_decode(
    q_nope_btnh: Float[Array, "b t n h"],
    q_rope_btnp: Float[Array, "b t n p"],
    cache: LatentCache | PagedCache,
    w_up_rnk: Float[Array, "r n k"],
    lengths_b: Int[Array, " b"],
) -> Float[Array, "b t n h"]:
    """Attention of the T newest tokens of each sequence; the cache already holds their entries.

    Token t attends to the first `lengths_b + t + 1` entries. T = 1 is plain decoding; larger T is a
    chunk of a prompt or a draft to verify. A token without visible entries (negative length) yields
    zeros. Softmax is in float32, the rest in the dtype of the queries.
    """
    mesh = sharding.current_mesh()
    arrays = q_nope_btnh, q_rope_btnp, cache, w_up_rnk, lengths_b
    if mesh is not None and (zigzag.shards() > 1 or choice.preferred() == "tpu"):
        return _attend_on_mesh(mesh, *arrays)
    return _attend(*arrays).context


def _attend_on_mesh(
    mesh: AbstractMesh,
    q_nope_btnh: Array,
    q_rope_btnp: Array,
    cache: LatentCache | PagedCache,
    w_up_rnk: Array,
    lengths_b: Array,
) -> Array:
    """`latent_decode` with sequences sharded over `replica` and `fsdp`, heads over `tensor`.

    Contiguous caches are sharded over `context`. Pages are shared by sequences and replicated.
    """
    spec = functools.partial(zigzag.spec, mesh, lengths_b.shape[0])
    if isinstance(cache, PagedCache):
        local = lambda *arrays: _attend(*arrays).context  # noqa: E731
        scales = None if cache.scales is None else PartitionSpec()
        cache_spec = PagedCache(PartitionSpec(), spec(), scales)
    else:
        local = functools.partial(_attend_over, zigzag.CONTEXT)
        scales = None if cache.scales is None else spec(None, zigzag.CONTEXT)
        cache_spec = LatentCache(spec(zigzag.CONTEXT), scales)
    heads = spec(None, "tensor")
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(heads, heads, cache_spec, PartitionSpec(None, "tensor"), spec()),
        out_specs=heads,
        check_vma=False,
    )(q_nope_btnh, q_rope_btnp, cache, w_up_rnk, lengths_b)


def _attend_over(
    axis: str,
    q_nope_btnh: Array,
    q_rope_btnp: Array,
    cache: LatentCache,
    w_up_rnk: Array,
    lengths_b: Array,
) -> Array:
    """Inside `shard_map`: `latent_decode` with the cache split evenly along mesh axis `axis`.

    Each device attends over its part. The outputs of the heads (H numbers each) are exchanged, not
    the latent contexts (R numbers). `lengths_b` counts entries of the full cache. Lengths, queries
    and weights are replicated along `axis`.
    """
    local_lengths_b = lengths_b - jax.lax.axis_index(axis) * capacity(cache)
    output = _attend(q_nope_btnh, q_rope_btnp, cache, w_up_rnk, local_lengths_b)
    return merge_over(axis, output).context


def _attend(
    q_nope_btnh: Array,
    q_rope_btnp: Array,
    cache: LatentCache | PagedCache,
    w_up_rnk: Array,
    lengths_b: Array,
) -> AttentionOutput:
    """Outputs of the heads [B, T, N, H] and their log-sum-exp."""
    nope, rank = q_nope_btnh.shape[-1], w_up_rnk.shape[0]
    scale = (nope + q_rope_btnp.shape[-1]) ** -0.5
    q_latent_btnr = jnp.einsum("btnh,rnh->btnr", q_nope_btnh, w_up_rnk[..., :nope])
    q_btne = jnp.concatenate([q_latent_btnr, q_rope_btnp], -1)
    arrays = q_btne, cache, lengths_b, rank, scale
    constraint = tpu.constraint(cache, rank)
    if choice.pick("latent_decode", not constraint, constraint) == "tpu":
        output = tpu.attend(*arrays, interpret=choice.interpret())
    else:
        output = xla.attend(*arrays)
    out_btnh = jnp.einsum("btnr,rnh->btnh", output.context, w_up_rnk[..., nope:])
    return AttentionOutput(out_btnh, output.lse)
