"""Attention over intervals of keys on a TPU: the backward kernels.

Both make weights and their slopes again, keys as rows as in the forward kernel, from the log of
each softmax's sum and from delta_t = dout_t . out_t, which are rows:

    p^T  = exp2(k q^T - lse)            ds^T = p^T (v dout^T - delta)          [S, T]
    dv^T = dout^T p,  dk = ds^T q       a block of keys stays, queries come by
    dq^T = k^T ds^T                     a block of queries stays, keys come by

Grid and blocks as in the forward kernel, visits by key for dk and dv; with grouped heads the
queries of all heads of a group come by. FLOPs of a visit: 2 T S (2 H + 2 V) for keys and values,
2 T S (2 H + V) for queries, of which 2 T S (H + V) are made twice.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from ivx.kernels import choice
from ivx.kernels.dense_attention import schedule
from ivx.kernels.dense_attention.blocks import (
    BACKWARD_TILE,
    LOG2E,
    VMEM_LIMIT,
    block_for,
    product,
    scaled,
    tiles,
    visible,
)
from ivx.kernels.dense_attention.visits import Seen, visits


def backward(
    q_bkgth: Float[Array, "b k g t h"],
    k_bksh: Float[Array, "b k s h"],
    v_bksv: Float[Array, "b k s v"],
    seen: Seen,
    scale: float,
    lse_bkgt: Float[Array, "b k g t"],
    delta_bkgt: Float[Array, "b k g t"],
    d_out_bkgtv: Float[Array, "b k g t v"],
) -> tuple[Array, Array, Array]:
    """Gradients of q, k and v, summed in float32, in the dtypes of these.

    Blocks that see nothing, or that nothing sees, are whatever was in memory.
    """
    batch, kv_heads, shared, length, width = q_bkgth.shape
    keys, values = v_bksv.shape[2:]
    heads = kv_heads * shared
    q = scaled(q_bkgth, scale).reshape(batch, heads, length, width)
    d_out_t = d_out_bkgtv.reshape(batch, heads, length, values).swapaxes(2, 3)
    lse = (lse_bkgt * LOG2E).reshape(batch, heads, 1, length)
    delta = delta_bkgt.reshape(batch, heads, 1, length)
    blocks = block_for(length), block_for(keys)
    packs = seen.first[:, None, None], seen.last[:, None, None]
    d_q = _d_queries(q, k_bksh, v_bksv, packs, seen, lse, delta, d_out_t, blocks, scale)
    d_k, d_v = _d_keys(q, k_bksh, v_bksv, packs, seen, lse, delta, d_out_t, blocks)
    return d_q.reshape(q_bkgth.shape), d_k, d_v


def _d_queries(q, k, v, packs, seen, lse, delta, d_out_t, blocks, scale):
    """dq, block of queries by block of queries."""
    heads, width, values, keys = q.shape[1], q.shape[3], v.shape[3], k.shape[2]
    shared = heads // k.shape[1]
    pairs = visits(seen, keys, *blocks)
    q_block, k_block = blocks
    shared_head = (lambda n: n) if shared == 1 else (lambda n: jax.lax.div(n, shared))
    row = schedule.window((1, q_block), 1, schedule.query_of)
    pack = schedule.window((1, q_block), 1, schedule.query_of, lambda n: 0)
    return pl.pallas_call(
        functools.partial(_d_queries_kernel, scale=scale),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(heads, pairs.count),
            in_specs=[
                schedule.window((q_block, width), 0, schedule.query_of),
                schedule.window((k_block, width), 0, schedule.key_of, shared_head),
                schedule.window((width, k_block), 1, schedule.key_of, shared_head),
                schedule.window((k_block, values), 0, schedule.key_of, shared_head),
                pack,
                pack,
                row,
                row,
                schedule.window((values, q_block), 1, schedule.query_of),
            ],
            out_specs=schedule.window((q_block, width), 0, schedule.query_of),
            scratch_shapes=[pltpu.VMEM((width, q_block), jnp.float32)],
        ),
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=VMEM_LIMIT
        ),
        interpret=choice.interpret(),
        name="dense_attention_d_queries",
    )(schedule.encode(pairs), q, k, k.swapaxes(2, 3), v, *packs, lse, delta, d_out_t)


def _d_keys(q, k, v, packs, seen, lse, delta, d_out_t, blocks):
    """dk and dv, block of keys by block of keys; heads of a group follow each other."""
    kv_heads, keys, width, values = *k.shape[1:], v.shape[3]
    shared = q.shape[1] // kv_heads
    pairs = visits(seen, keys, *blocks, by_key=True)
    q_block, k_block = blocks
    stays, passes = (lambda n, g: n), (lambda n, g: n * shared + g)
    row = schedule.window((1, q_block), 1, schedule.query_of, passes)
    pack = schedule.window((1, q_block), 1, schedule.query_of, lambda n, g: 0)
    d_k = schedule.window((k_block, width), 0, schedule.key_of, stays)
    d_v = schedule.window((k_block, values), 0, schedule.key_of, stays)
    return pl.pallas_call(
        _d_keys_kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(kv_heads, pairs.count, shared),
            in_specs=[
                schedule.window((q_block, width), 0, schedule.query_of, passes),
                d_k,
                d_v,
                pack,
                pack,
                row,
                row,
                schedule.window((values, q_block), 1, schedule.query_of, passes),
            ],
            out_specs=[d_k, d_v],
            scratch_shapes=[
                pltpu.VMEM((k_block, width), jnp.float32),
                pltpu.VMEM((values, k_block), jnp.float32),
            ],
        ),
        out_shape=[jax.ShapeDtypeStruct(k.shape, k.dtype), jax.ShapeDtypeStruct(v.shape, v.dtype)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=VMEM_LIMIT
        ),
        interpret=choice.interpret(),
        name="dense_attention_d_keys",
    )(schedule.encode(pairs), q, k, v, *packs, lse, delta, d_out_t)


def _slopes(q, k, v, d_out_t, lse, delta, seen) -> tuple[Array, Array]:
    """p^T and ds^T [S, T] of some keys; what is not seen has weight 0."""
    scores = product(k, q, (1, 1))
    weights = jnp.exp2(scores - lse)
    if seen is not None:
        weights = jnp.where(seen, weights, 0)
    return weights, weights * (product(v, d_out_t, (1, 0)) - delta)


def _d_queries_kernel(
    code_ref,
    q_ref,
    k_ref,
    kt_ref,
    v_ref,
    first_ref,
    last_ref,
    lse_ref,
    delta_ref,
    d_out_t_ref,
    d_q_ref,
    acc,
    *,
    scale,
):
    """One visit of one head."""
    code = code_ref[pl.program_id(1)]
    block = k_ref.shape[0]

    @pl.when(schedule.opens(code))
    def _():
        acc[...] = jnp.zeros_like(acc)

    def visit(masked: bool) -> None:
        for tile in tiles(q_ref.shape[0], BACKWARD_TILE):
            seen = None
            if masked:
                key = schedule.key_of(code) * block
                seen = visible(first_ref[:, tile], last_ref[:, tile], key, block)
            _, slopes = _slopes(
                q_ref[tile],
                k_ref[...],
                v_ref[...],
                d_out_t_ref[:, tile],
                lse_ref[:, tile],
                delta_ref[:, tile],
                seen,
            )
            acc[:, tile] += product(kt_ref[...], slopes.astype(kt_ref.dtype), (1, 0))

    masked = schedule.is_masked(code)
    pl.when(masked)(lambda: visit(True))
    pl.when(jnp.logical_not(masked))(lambda: visit(False))

    @pl.when(schedule.closes(code))
    def _():
        d_q_ref[...] = (acc[...] * scale).T.astype(d_q_ref.dtype)


def _d_keys_kernel(
    code_ref,
    q_ref,
    k_ref,
    v_ref,
    first_ref,
    last_ref,
    lse_ref,
    delta_ref,
    d_out_t_ref,
    d_k_ref,
    d_v_ref,
    acc_k,
    acc_v,
):
    """One visit of one head."""
    code = code_ref[pl.program_id(1)]
    block = k_ref.shape[0]
    head, heads = pl.program_id(2), pl.num_programs(2)

    @pl.when(schedule.opens(code) & (head == 0))
    def _():
        acc_k[...] = jnp.zeros_like(acc_k)
        acc_v[...] = jnp.zeros_like(acc_v)

    def visit(masked: bool) -> None:
        for part in tiles(block, BACKWARD_TILE):
            seen = None
            if masked:
                key = schedule.key_of(code) * block + part.start
                seen = visible(first_ref[...], last_ref[...], key, part.size)
            weights, slopes = _slopes(
                q_ref[...],
                k_ref[part],
                v_ref[part],
                d_out_t_ref[...],
                lse_ref[...],
                delta_ref[...],
                seen,
            )
            acc_k[part] += product(slopes.astype(q_ref.dtype), q_ref[...], (1, 0))
            weights = weights.astype(d_out_t_ref.dtype)
            acc_v[:, part] += product(d_out_t_ref[...], weights, (1, 1))

    masked = schedule.is_masked(code)
    pl.when(masked)(lambda: visit(True))
    pl.when(jnp.logical_not(masked))(lambda: visit(False))

    @pl.when(schedule.closes(code) & (head == heads - 1))
    def _():
        # Queries came multiplied by log2(e) beside the scale.
        d_k_ref[...] = (acc_k[...] / LOG2E).astype(d_k_ref.dtype)
        d_v_ref[...] = acc_v[...].T.astype(d_v_ref.dtype)
