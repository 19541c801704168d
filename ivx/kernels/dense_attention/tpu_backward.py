"""Attention over intervals of keys on a TPU: the backward kernel.

Weights and their slopes are made again, keys as rows as in the forward kernel, from the log of each
softmax's sum and from delta_t = dout_t . out_t, which are rows:

    p^T  = exp2(k q^T - lse)            ds^T = p^T (v dout^T - delta)          [S, T]
    dv^T = dout^T p,  dk = ds^T q       a block of keys stays, queries come by
    dq^T = k^T ds^T                     all queries stay: their slopes wait in VMEM

So weights are made once for all three gradients. Grid: key heads, visits by key (`visits.py`,
`schedule.py`), heads of a group; blocks of 1,024 queries and keys. FLOPs of a visit:
2 T S (3 H + 2 V). Queries whose slopes do not fit into RESIDENT are taken part by part, and the
gradients of keys and values added up from part to part in float32.

VMEM, with 16,384 queries and H = 256: 16 MiB of slopes in float32, two windows of 8 MiB that they
leave by, 5 MiB of other windows and of parts 9, 2 MiB of sums, a turned block of keys, and what the
compiler spills.
"""

import functools
from collections.abc import Sequence

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
from ivx.kernels.dense_attention.visits import Seen, pad, visits

# Bytes of VMEM for slopes of queries: float32, and two windows to leave by.
RESIDENT = 32 * 2**20


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

    What sees nothing, or is not seen, gets 0, whatever lse and delta hold there; the rest has to
    be finite.
    """
    # Tokens are lanes from here on, [B, K, G, H, T].
    q = scaled(q_bkgth, scale).swapaxes(3, 4)
    rows = (lse_bkgt * LOG2E, delta_bkgt, d_out_bkgtv.swapaxes(3, 4))
    length, count = q_bkgth.shape[3], parts(q_bkgth.shape, q.dtype.itemsize)
    if count == 1:
        d_q, d_k, d_v = _visit_all(q, k_bksh, v_bksv, seen, *rows, scale)
        return d_q.swapaxes(3, 4), d_k, d_v
    block = block_for(length)
    size = -(-length // (count * block)) * block

    def cut(array: Array, axis: int) -> Array:
        """Queries in parts of the same size, parts first."""
        room = [(0, 0)] * array.ndim
        room[axis] = (0, count * size - array.shape[axis])
        shape = (*array.shape[:axis], count, size, *array.shape[axis + 1 :])
        return jnp.moveaxis(jnp.pad(array, room).reshape(shape), axis, 0)

    def one(sums: tuple[Array, Array], part: tuple) -> tuple[tuple[Array, Array], Array]:
        q, first, last, *rows = part
        d_q, *sums = _visit_all(q, k_bksh, v_bksv, Seen(first, last), *rows, scale, sums)
        return tuple(sums), d_q

    seen = pad(seen, count * size)
    of_parts = (cut(q, 4), *(cut(a, 1) for a in seen), *map(cut, rows, (3, 3, 4)))
    zeros = tuple(jnp.zeros(a.shape, jnp.float32) for a in (k_bksh, v_bksv))
    (d_k, d_v), d_q = jax.lax.scan(one, zeros, of_parts)
    d_q = jnp.moveaxis(d_q.swapaxes(4, 5), 0, 3)
    d_q = d_q.reshape(*q_bkgth.shape[:3], count * size, q_bkgth.shape[4])
    return d_q[:, :, :, :length], d_k.astype(k_bksh.dtype), d_v.astype(v_bksv.dtype)


def parts(shape: Sequence[int], itemsize: int) -> int:
    """How many parts queries of this shape [B, K, G, T, H] are taken in."""
    shared, length, width = shape[2:]
    block = block_for(length)
    held = shared * block * width * (4 + 2 * itemsize)
    return -(-length // (max(1, RESIDENT // held) * block))


def _visit_all(q_t, k, v, seen, lse, delta, d_out_t, scale, sums=()):
    """dq, dk and dv; where there are sums of parts before, dk and dv are added to these."""
    (batch, kv_heads, shared, width, length), keys, values = q_t.shape, k.shape[2], v.shape[3]
    heads, q_block, k_block = kv_heads * shared, block_for(length), block_for(keys)
    pairs = visits(seen, keys, q_block, k_block, by_key=True)
    stays, passes = (lambda n, g: n), (lambda n, g: n * shared + g)
    row = schedule.window((1, q_block), 1, schedule.query_of, passes)
    pack = schedule.window((1, q_block), 1, schedule.query_of, lambda n, g: 0)
    d_k = schedule.window((k_block, width), 0, schedule.key_of, stays)
    d_v = schedule.window((k_block, values), 0, schedule.key_of, stays)
    # All queries of a head and of those that share its keys.
    d_q = pl.BlockSpec(
        (None, None, shared, width, length),
        lambda n, visit, g, code: (schedule.batch_of(code[visit]), n, 0, 0, 0),
    )
    arguments = (
        schedule.encode(pairs),
        q_t.reshape(batch, heads, width, length),
        k,
        v,
        seen.first[:, None, None],
        seen.last[:, None, None],
        lse.reshape(batch, heads, 1, length),
        delta.reshape(batch, heads, 1, length),
        d_out_t.reshape(batch, heads, values, length),
        *sums,
    )
    return pl.pallas_call(
        functools.partial(_kernel, scale=scale, adds=bool(sums)),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(kv_heads, pairs.count, shared),
            in_specs=[
                schedule.window((width, q_block), 1, schedule.query_of, passes),
                d_k,
                d_v,
                pack,
                pack,
                row,
                row,
                schedule.window((values, q_block), 1, schedule.query_of, passes),
                *([d_k, d_v] if sums else []),
            ],
            out_specs=[d_q, d_k, d_v],
            scratch_shapes=[
                pltpu.VMEM((shared, length // q_block, width, q_block), jnp.float32),
                pltpu.VMEM((width, k_block), k.dtype),
                pltpu.VMEM((k_block, width), jnp.float32),
                pltpu.VMEM((values, k_block), jnp.float32),
            ],
        ),
        out_shape=[
            jax.ShapeDtypeStruct(q_t.shape, q_t.dtype),
            *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (sums or (k, v))),
        ],
        # Counted with the visits.
        input_output_aliases={9: 1, 10: 2} if sums else {},
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=VMEM_LIMIT
        ),
        interpret=choice.interpret(),
        name="dense_attention_backward",
    )(*arguments)


def _kernel(
    code_ref,
    q_t_ref,
    k_ref,
    v_ref,
    first_ref,
    last_ref,
    lse_ref,
    delta_ref,
    d_out_t_ref,
    *more,
    scale,
    adds,
):
    """One visit of one head."""
    before, (d_q_t_ref, d_k_ref, d_v_ref, acc_q, k_t, acc_k, acc_v) = more[:-7], more[-7:]
    visit, visits_count = pl.program_id(1), pl.num_programs(1)
    head, heads = pl.program_id(2), pl.num_programs(2)
    code = code_ref[visit]
    pack = schedule.batch_of(code)
    earlier = schedule.batch_of(code_ref[jnp.maximum(visit - 1, 0)])
    later = schedule.batch_of(code_ref[jnp.minimum(visit + 1, visits_count - 1)])
    block = k_ref.shape[0]

    @pl.when(((visit == 0) | (earlier != pack)) & (head == 0))
    def _():
        acc_q[...] = jnp.zeros_like(acc_q)

    @pl.when(schedule.opens(code) & (head == 0))
    def _():
        k_t[...] = k_ref[...].T
        acc_k[...] = jnp.zeros_like(acc_k)
        acc_v[...] = jnp.zeros_like(acc_v)

    def attend(masked: bool) -> None:
        for part in tiles(block, BACKWARD_TILE):
            weights = jnp.exp2(product(k_ref[part], q_t_ref[...], (1, 0)) - lse_ref[...])
            slopes = product(v_ref[part], d_out_t_ref[...], (1, 0)) - delta_ref[...]
            if masked:
                key = schedule.key_of(code) * block + part.start
                seen = visible(first_ref[...], last_ref[...], key, part.size)
                # Rows that see nothing were never made: they may hold anything, NaN as well.
                weights, slopes = (jnp.where(seen, a, 0) for a in (weights, slopes))
            slopes = (weights * slopes).astype(q_t_ref.dtype)
            acc_k[part] += product(slopes, q_t_ref[...], (1, 1))
            acc_q[head, schedule.query_of(code)] += product(k_t[:, part], slopes, (1, 0))
            weights = weights.astype(d_out_t_ref.dtype)
            acc_v[:, part] += product(d_out_t_ref[...], weights, (1, 1))

    masked = schedule.is_masked(code)
    # Of a block that no query sees, that of a pack's share on another device say, 0 is made alone.
    pl.when(masked & jnp.logical_not(schedule.is_empty(code)))(lambda: attend(True))
    pl.when(jnp.logical_not(masked))(lambda: attend(False))

    @pl.when(schedule.closes(code) & (head == heads - 1))
    def _():
        # Queries came multiplied by log2(e) beside the scale.
        d_k, d_v = acc_k[...] / LOG2E, acc_v[...].T
        if adds:
            d_k, d_v = before[0][...] + d_k, before[1][...] + d_v
        d_k_ref[...], d_v_ref[...] = d_k.astype(d_k_ref.dtype), d_v.astype(d_v_ref.dtype)

    @pl.when(((visit == visits_count - 1) | (later != pack)) & (head == heads - 1))
    def _():
        count, _, size = acc_q.shape[1:]

        @pl.loop(0, count)
        def _(number):
            place = pl.ds(pl.multiple_of(number * size, size), size)
            for one in range(acc_q.shape[0]):
                d_q_t_ref[one, :, place] = (acc_q[one, number] * scale).astype(d_q_t_ref.dtype)
