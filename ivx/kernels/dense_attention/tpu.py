"""Attention over intervals of keys on a TPU: the forward kernel.

Scores are made with keys as rows, so that what belongs to a query (maximum, sum, first and last key
seen) is a row vector, one register for 1024 queries, and weights come out as the matrix unit wants
its stationary operand. Queries come and results leave with tokens as lanes, too, which is how XLA
lays what products with weights give and take. Of one head and one pair of blocks:

      k [S, H]          scores [S, T]           v^T [V, S]
     +--------+        +-------------+        +-----------+       +-------------+
     |        |  q^T   | exp2(. - m) |        |           |   p   |             |
     |        | -----> |      p      |        |           | ----> | out^T [V,T] |
     +--------+        +-------------+        +-----------+       +-------------+
      streams           max, sum down          streams             accumulates

Grid: heads, then visits (`visits.py`, `schedule.py`). Blocks in VMEM, bfloat16, two of each for
the pipeline: q^T [H, T], k [S, H], v^T [V, S], out^T [V, T]; float32 scratch [V, T] and three rows.
With T = 2048, S = 1024, H = 256, V = 128: 4.5 MiB of windows, 1 MiB of scratch, and what the
compiler spills of 12 MiB of scores and weights. FLOPs of a visit: 2 T S (H + V).
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from ivx.kernels import choice, masking
from ivx.kernels.dense_attention import blocks, schedule
from ivx.kernels.dense_attention.blocks import block_for, constraint
from ivx.kernels.dense_attention.tpu_backward import backward
from ivx.kernels.dense_attention.visits import Seen, visits

__all__ = ["backward", "block_for", "constraint", "forward"]


def forward(
    q_bkgth: Float[Array, "b k g t h"],
    k_bksh: Float[Array, "b k s h"],
    v_bksv: Float[Array, "b k s v"],
    seen: Seen,
    scale: float,
) -> tuple[Float[Array, "b k g t v"], Float[Array, "b k g t"]]:
    """Outputs in the dtype of v, and the log of each softmax's sum, float32.

    T and S are multiples of `block_for` of them. Rows of a block that sees nothing are whatever was
    in memory.
    """
    batch, kv_heads, shared, length, width = q_bkgth.shape
    keys, values = v_bksv.shape[2:]
    q_block, k_block = blocks.forward_block(length), block_for(keys)
    pairs = visits(seen, keys, q_block, k_block)
    heads = kv_heads * shared
    q_bnht = blocks.scaled(q_bkgth, scale).swapaxes(3, 4).reshape(batch, heads, width, length)

    shared_head = (lambda n: n) if shared == 1 else (lambda n: jax.lax.div(n, shared))
    of_pack = schedule.window((1, q_block), 1, schedule.query_of, lambda n: 0)
    out, lse = pl.pallas_call(
        _kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(heads, pairs.count),
            in_specs=[
                schedule.window((width, q_block), 1, schedule.query_of),
                schedule.window((k_block, width), 0, schedule.key_of, shared_head),
                schedule.window((values, k_block), 1, schedule.key_of, shared_head),
                of_pack,
                of_pack,
            ],
            out_specs=[
                schedule.window((values, q_block), 1, schedule.query_of),
                schedule.window((1, q_block), 1, schedule.query_of),
            ],
            scratch_shapes=[
                pltpu.VMEM((values, q_block), jnp.float32),
                pltpu.VMEM((1, q_block), jnp.float32),
                pltpu.VMEM((1, q_block), jnp.float32),
                pltpu.VMEM((1, q_block), jnp.float32),
            ],
        ),
        out_shape=[
            jax.ShapeDtypeStruct((batch, heads, values, length), v_bksv.dtype),
            jax.ShapeDtypeStruct((batch, heads, 1, length), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=blocks.VMEM_LIMIT
        ),
        interpret=choice.interpret(),
        name="dense_attention",
    )(
        schedule.encode(pairs),
        q_bnht,
        k_bksh,
        v_bksv.swapaxes(2, 3),
        seen.first[:, None, None],
        seen.last[:, None, None],
    )
    out_bkgvt = out.reshape(batch, kv_heads, shared, values, length)
    return out_bkgvt.swapaxes(3, 4), lse.reshape(q_bkgth.shape[:4])


def _kernel(
    code_ref,
    q_t_ref,
    k_ref,
    v_t_ref,
    first_ref,
    last_ref,
    out_t_ref,
    lse_ref,
    acc,
    top,
    total,
    pending,
):
    """One visit of one head.

    Scores are held against maxima. To know those of this visit all its scores have to be there, and
    the matrix unit would wait for exponentials; so they are held against the maxima of the visits
    before, and afterwards brought to the new ones. Where these are far higher, weights may have
    overflowed: such queries are left as they were, pending, and done again with care.
    """
    code = code_ref[pl.program_id(1)]
    block = k_ref.shape[0]

    @pl.when(schedule.opens(code))
    def _():
        acc[...] = jnp.zeros_like(acc)
        top[...] = jnp.full_like(top, masking.MASKED)
        total[...] = jnp.zeros_like(total)

    def attend(tile: pl.Slice, careful: bool) -> None:
        scores = blocks.product(k_ref[...], q_t_ref[:, tile], (1, 0))
        if careful:
            key = schedule.key_of(code) * block
            seen = blocks.visible(first_ref[:, tile], last_ref[:, tile], key, block)
            scores = jnp.where(seen, scores, masking.MASKED)
        before = top[:, tile]
        now = jnp.maximum(before, blocks.strips(jnp.maximum, scores).max(0, keepdims=True))
        # A row that has seen nothing yet takes weights of 1 here; its first real maximum turns
        # them to 0.
        weights = jnp.exp2(scores - (now if careful else before))
        sums = blocks.strips(jnp.add, weights).sum(0, keepdims=True)
        part = blocks.product(v_t_ref[...], weights.astype(v_t_ref.dtype), (1, 0))
        shrink = jnp.exp2(before - now)
        if careful:
            done = pending[:, tile] > 0
            new_acc, new_total = acc[:, tile] * shrink + part, total[:, tile] * shrink + sums
        else:
            done = now - before <= blocks.HEADROOM
            new_acc, new_total = (acc[:, tile] + part) * shrink, (total[:, tile] + sums) * shrink
            pending[:, tile] = jnp.where(done, 0.0, 1.0)
        acc[:, tile] = jnp.where(done, new_acc, acc[:, tile])
        total[:, tile] = jnp.where(done, new_total, total[:, tile])
        top[:, tile] = jnp.where(done, now, before)

    def with_care() -> None:
        for tile in blocks.tiles(q_t_ref.shape[1], blocks.TILE):
            attend(tile, careful=True)

    # The first visit has no maxima to go by.
    slow = schedule.is_masked(code) | schedule.opens(code)

    @pl.when(slow)
    def _():
        pending[...] = jnp.ones_like(pending)

    @pl.when(jnp.logical_not(slow))
    def _():
        for tile in blocks.tiles(q_t_ref.shape[1], blocks.TILE):
            attend(tile, careful=False)

    pl.when(jnp.max(pending[...]) > 0)(with_care)

    @pl.when(schedule.closes(code))
    def _():
        out_t_ref[...] = (acc[...] / total[...]).astype(out_t_ref.dtype)
        lse_ref[...] = (top[...] + jnp.log2(total[...])) / blocks.LOG2E
