"""Attention over ranges of keys on a TPU: the backward kernel.

Weights and score gradients are recomputed with keys as rows, as in the forward kernel, from the
log-sum-exp and from delta_t = dout_t . out_t, which are row vectors:

    p^T  = exp2(k q^T - lse)            ds^T = p^T (v dout^T - delta)          [S, T]
    dv^T = dout^T p,  dk = ds^T q       a key block is stationary, query blocks iterate
    dq^T = k^T ds^T                     accumulates for all queries in VMEM

So the weights are computed once for all three gradients. If the gradients of all queries exceed
RESIDENT, the queries are processed in parts, and dk and dv accumulate in float32 from part to part.

Grid: (key heads, visits by key, heads of a group), see `visits.py` and `packed_visits.py`.
Blocks: 1,024 queries and keys, double-buffered; dq^T of all queries of a group.
VMEM with 16,384 queries and H = 256: 16 MiB for dq in float32, two output windows of 8 MiB, 5 MiB
of other blocks (9 MiB if processed in parts), 2 MiB of sums, a transposed key block, and spills.
FLOPs per visit: 2 T S (3 H + 2 V).
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from ivx.kernels import choice
from ivx.kernels.dense_attention import packed_visits
from ivx.kernels.dense_attention.blocks import (
    BACKWARD_TILE,
    LOG2E,
    VMEM_LIMIT,
    block_for,
    product,
    scale_queries,
    tiles,
    visible,
)
from ivx.kernels.dense_attention.visits import KeyRange, list_visits, pad

# Bytes of VMEM for query gradients: float32, and two output windows.
RESIDENT = 32 * 2**20


def backward(
    q_bkgth: Float[Array, "b k g t h"],
    k_bksh: Float[Array, "b k s h"],
    v_bksv: Float[Array, "b k s v"],
    key_range: KeyRange,
    scale: float,
    lse_bkgt: Float[Array, "b k g t"],
    delta_bkgt: Float[Array, "b k g t"],
    d_out_bkgtv: Float[Array, "b k g t v"],
) -> tuple[Array, Array, Array]:
    """Gradients of q, k and v, accumulated in float32, in the dtypes of q, k and v.

    Queries with an empty range and keys outside all ranges get 0, whatever lse and delta hold
    there. Everything else must be finite.
    """
    # Token-minor from here on, [B, K, G, H, T].
    q = scale_queries(q_bkgth, scale).swapaxes(3, 4)
    rows = (lse_bkgt * LOG2E, delta_bkgt, d_out_bkgtv.swapaxes(3, 4))
    length, count = q_bkgth.shape[3], part_count(q_bkgth.shape, q.dtype.itemsize)
    if count == 1:
        d_q, d_k, d_v = _run_kernel(q, k_bksh, v_bksv, key_range, *rows, scale)
        return d_q.swapaxes(3, 4), d_k, d_v
    block = block_for(length)
    size = -(-length // (count * block)) * block

    def split(array: Array, axis: int) -> Array:
        """Splits the query axis into parts of equal size; the part axis comes first."""
        padding = [(0, 0)] * array.ndim
        padding[axis] = (0, count * size - array.shape[axis])
        shape = (*array.shape[:axis], count, size, *array.shape[axis + 1 :])
        return jnp.moveaxis(jnp.pad(array, padding).reshape(shape), axis, 0)

    def process_part(
        sums: tuple[Array, Array], part: tuple[Array, ...]
    ) -> tuple[tuple[Array, Array], Array]:
        q, first, last, *rows = part
        d_q, *sums = _run_kernel(q, k_bksh, v_bksv, KeyRange(first, last), *rows, scale, sums)
        return tuple(sums), d_q

    key_range = pad(key_range, count * size)
    parts = (split(q, 4), *(split(a, 1) for a in key_range), *map(split, rows, (3, 3, 4)))
    zeros = tuple(jnp.zeros(a.shape, jnp.float32) for a in (k_bksh, v_bksv))
    (d_k, d_v), d_q = jax.lax.scan(process_part, zeros, parts)
    d_q = jnp.moveaxis(d_q.swapaxes(4, 5), 0, 3)
    d_q = d_q.reshape(*q_bkgth.shape[:3], count * size, q_bkgth.shape[4])
    return d_q[:, :, :, :length], d_k.astype(k_bksh.dtype), d_v.astype(v_bksv.dtype)


def part_count(shape: Sequence[int], itemsize: int) -> int:
    """Number of parts in which queries of this shape [B, K, G, T, H] are processed."""
    group, length, width = shape[2:]
    block = block_for(length)
    block_bytes = group * block * width * (4 + 2 * itemsize)
    return -(-length // (max(1, RESIDENT // block_bytes) * block))


def _run_kernel(
    q_t: Array,
    k: Array,
    v: Array,
    key_range: KeyRange,
    lse: Array,
    delta: Array,
    d_out_t: Array,
    scale: float,
    sums: Sequence[Array] = (),
) -> Sequence[Array]:
    """dq, dk and dv. If `sums` of earlier parts are given, dk and dv are added to them."""
    (batch, kv_heads, group, width, length), keys, values = q_t.shape, k.shape[2], v.shape[3]
    heads, q_block, k_block = kv_heads * group, block_for(length), block_for(keys)
    visits = list_visits(key_range, keys, q_block, k_block, by_key=True)
    key_head, query_head = (lambda n, g: n), (lambda n, g: n * group + g)
    row = packed_visits.window((1, q_block), 1, packed_visits.query_of, query_head)
    range_window = packed_visits.window((1, q_block), 1, packed_visits.query_of, lambda n, g: 0)
    d_k = packed_visits.window((k_block, width), 0, packed_visits.key_of, key_head)
    d_v = packed_visits.window((k_block, values), 0, packed_visits.key_of, key_head)
    # All queries of all heads that share a key head.
    d_q = pl.BlockSpec(
        (None, None, group, width, length),
        lambda n, visit, g, code: (packed_visits.batch_of(code[visit]), n, 0, 0, 0),
    )
    arguments = (
        packed_visits.encode(visits),
        q_t.reshape(batch, heads, width, length),
        k,
        v,
        key_range.first[:, None, None],
        key_range.last[:, None, None],
        lse.reshape(batch, heads, 1, length),
        delta.reshape(batch, heads, 1, length),
        d_out_t.reshape(batch, heads, values, length),
        *sums,
    )
    return pl.pallas_call(
        functools.partial(_kernel, scale=scale, adds=bool(sums)),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(kv_heads, visits.count, group),
            in_specs=[
                packed_visits.window((width, q_block), 1, packed_visits.query_of, query_head),
                d_k,
                d_v,
                range_window,
                range_window,
                row,
                row,
                packed_visits.window((values, q_block), 1, packed_visits.query_of, query_head),
                *([d_k, d_v] if sums else []),
            ],
            out_specs=[d_q, d_k, d_v],
            scratch_shapes=[
                pltpu.VMEM((group, length // q_block, width, q_block), jnp.float32),
                pltpu.VMEM((width, k_block), k.dtype),
                pltpu.VMEM((k_block, width), jnp.float32),
                pltpu.VMEM((values, k_block), jnp.float32),
            ],
        ),
        out_shape=[
            jax.ShapeDtypeStruct(q_t.shape, q_t.dtype),
            *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (sums or (k, v))),
        ],
        # The prefetched scalars count as argument 0.
        input_output_aliases={9: 1, 10: 2} if sums else {},
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=VMEM_LIMIT
        ),
        interpret=choice.interpret(),
        name="dense_attention_backward",
    )(*arguments)


def _kernel(
    code_ref: Any,
    q_t_ref: Any,
    k_ref: Any,
    v_ref: Any,
    first_ref: Any,
    last_ref: Any,
    lse_ref: Any,
    delta_ref: Any,
    d_out_t_ref: Any,
    *rest: Any,
    scale: float,
    adds: bool,
) -> None:
    """One visit of one head. `rest`: sums of earlier parts (if `adds`), outputs, scratch."""
    earlier_sums, (d_q_t_ref, d_k_ref, d_v_ref, acc_q, k_t, acc_k, acc_v) = rest[:-7], rest[-7:]
    visit, visit_count = pl.program_id(1), pl.num_programs(1)
    head, heads = pl.program_id(2), pl.num_programs(2)
    code = code_ref[visit]
    pack = packed_visits.batch_of(code)
    previous_pack = packed_visits.batch_of(code_ref[jnp.maximum(visit - 1, 0)])
    next_pack = packed_visits.batch_of(code_ref[jnp.minimum(visit + 1, visit_count - 1)])
    block = k_ref.shape[0]

    @pl.when(((visit == 0) | (previous_pack != pack)) & (head == 0))
    def _() -> None:
        acc_q[...] = jnp.zeros_like(acc_q)

    @pl.when(packed_visits.opens(code) & (head == 0))
    def _() -> None:
        k_t[...] = k_ref[...].T
        acc_k[...] = jnp.zeros_like(acc_k)
        acc_v[...] = jnp.zeros_like(acc_v)

    def attend(masked: bool) -> None:
        for tile in tiles(block, BACKWARD_TILE):
            weights = jnp.exp2(product(k_ref[tile], q_t_ref[...], (1, 0)) - lse_ref[...])
            d_scores = product(v_ref[tile], d_out_t_ref[...], (1, 0)) - delta_ref[...]
            if masked:
                key = packed_visits.key_of(code) * block + tile.start
                mask = visible(first_ref[...], last_ref[...], key, tile.size)
                # Rows with an empty range were never written and may hold anything, even NaN.
                weights, d_scores = (jnp.where(mask, a, 0) for a in (weights, d_scores))
            d_scores = (weights * d_scores).astype(q_t_ref.dtype)
            acc_k[tile] += product(d_scores, q_t_ref[...], (1, 1))
            acc_q[head, packed_visits.query_of(code)] += product(k_t[:, tile], d_scores, (1, 0))
            weights = weights.astype(d_out_t_ref.dtype)
            acc_v[:, tile] += product(d_out_t_ref[...], weights, (1, 1))

    masked = packed_visits.is_masked(code)
    # A key block without queries (all its queries may be on another device) only gets zeros.
    pl.when(masked & jnp.logical_not(packed_visits.is_empty(code)))(lambda: attend(True))
    pl.when(jnp.logical_not(masked))(lambda: attend(False))

    @pl.when(packed_visits.closes(code) & (head == heads - 1))
    def _() -> None:
        # The queries were scaled by log2(e) in addition to `scale`.
        d_k, d_v = acc_k[...] / LOG2E, acc_v[...].T
        if adds:
            d_k, d_v = earlier_sums[0][...] + d_k, earlier_sums[1][...] + d_v
        d_k_ref[...], d_v_ref[...] = d_k.astype(d_k_ref.dtype), d_v.astype(d_v_ref.dtype)

    @pl.when(((visit == visit_count - 1) | (next_pack != pack)) & (head == heads - 1))
    def _() -> None:
        count, _, size = acc_q.shape[1:]

        @pl.loop(0, count)
        def _(index: Array) -> None:
            tokens = pl.ds(pl.multiple_of(index * size, size), size)
            for group_head in range(acc_q.shape[0]):
                d_q_t_ref[group_head, :, tokens] = (acc_q[group_head, index] * scale).astype(
                    d_q_t_ref.dtype
                )
