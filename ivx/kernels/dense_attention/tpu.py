"""Attention over intervals of keys on a TPU: the forward kernel.

Scores are made with keys as rows, so that what belongs to a query (maximum, sum, first and last key
seen) is a row vector, one register for 1024 queries, and weights come out as the matrix unit wants
its stationary operand. Of one head and one pair of blocks:

      k [S, H]          scores [S, T]           v^T [V, S]
     +--------+        +-------------+        +-----------+       +-------------+
     |        |  q^T   | exp2(. - m) |        |           |   p   |             |
     |        | -----> |      p      |        |           | ----> | out^T [V,T] |
     +--------+        +-------------+        +-----------+       +-------------+
      streams           max, sum down          streams             accumulates

Grid: heads, then visits (`visits.py`, `schedule.py`). Blocks in VMEM, bfloat16, two of each for
the pipeline: q [T, H], k [S, H], v^T [V, S], out [T, V]; float32 scratch [V, T] and two rows.
With T = S = 1024, H = 256, V = 128: 3.3 MiB of windows, 0.5 MiB of scratch, 6 MiB of scores and
weights. FLOPs of a visit: 2 T S (H + V).
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
    q_block, k_block = blocks.q_block_for(length), block_for(keys)
    pairs = visits(seen, keys, q_block, k_block)
    q_bnth = blocks.scaled(q_bkgth, scale).reshape(batch, kv_heads * shared, length, width)

    shared_head = (lambda n: n) if shared == 1 else (lambda n: jax.lax.div(n, shared))
    of_pack = schedule.window((1, q_block), 1, schedule.query_of, lambda n: 0)
    out, lse = pl.pallas_call(
        _kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(kv_heads * shared, pairs.count),
            in_specs=[
                schedule.window((q_block, width), 0, schedule.query_of),
                schedule.window((k_block, width), 0, schedule.key_of, shared_head),
                schedule.window((values, k_block), 1, schedule.key_of, shared_head),
                of_pack,
                of_pack,
            ],
            out_specs=[
                schedule.window((q_block, values), 0, schedule.query_of),
                schedule.window((1, q_block), 1, schedule.query_of),
            ],
            scratch_shapes=[
                pltpu.VMEM((values, q_block), jnp.float32),
                pltpu.VMEM((1, q_block), jnp.float32),
                pltpu.VMEM((1, q_block), jnp.float32),
            ],
        ),
        out_shape=[
            jax.ShapeDtypeStruct((*q_bnth.shape[:3], values), v_bksv.dtype),
            jax.ShapeDtypeStruct((*q_bnth.shape[:2], 1, length), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=blocks.VMEM_LIMIT
        ),
        interpret=choice.interpret(),
        name="dense_attention",
    )(
        schedule.encode(pairs),
        q_bnth,
        k_bksh,
        v_bksv.swapaxes(2, 3),
        seen.first[:, None, None],
        seen.last[:, None, None],
    )
    return out.reshape(*q_bkgth.shape[:4], values), lse.reshape(q_bkgth.shape[:4])


def _kernel(code_ref, q_ref, k_ref, vt_ref, first_ref, last_ref, out_ref, lse_ref, acc, top, total):
    """One visit of one head."""
    code = code_ref[pl.program_id(1)]
    block = k_ref.shape[0]

    @pl.when(schedule.opens(code))
    def _():
        acc[...] = jnp.zeros_like(acc)
        top[...] = jnp.full_like(top, masking.MASKED)
        total[...] = jnp.zeros_like(total)

    def visit(masked: bool) -> None:
        parts = blocks.tiles(q_ref.shape[0])

        size = min(blocks.CHUNK, block)
        chunks = [pl.ds(begin, size) for begin in range(0, block, size)]

        def scores_of(q, tile, chunk):
            scores = blocks.product(k_ref[chunk], q, (1, 1))
            if masked:
                key = schedule.key_of(code) * block + chunk.start
                seen = blocks.visible(first_ref[:, tile], last_ref[:, tile], key, size)
                scores = jnp.where(seen, scores, masking.MASKED)
            return scores

        previous = None
        for tile in [*parts, None]:
            scores, strip = [], None
            if tile is not None:
                q = blocks.after(q_ref[tile], previous and previous[1][-1])
            if previous is not None:
                done, made, now = previous
                weights, sums, out = [], None, 0
            for n, chunk in enumerate(chunks):
                if tile is not None:
                    scores.append(scores_of(q, tile, chunk))
                    strip = blocks.strips(jnp.maximum, strip, scores[-1])
                if previous is not None:
                    weight = jnp.exp2(made[n] - now)
                    sums = blocks.strips(jnp.add, sums, weight)
                    weights.append(weight.astype(vt_ref.dtype))
                    if blocks.MODE == 2:
                        out += blocks.product(vt_ref[:, chunk], weights[-1], (1, 0))
            if previous is not None:
                if blocks.MODE != 2:
                    out = blocks.product(vt_ref[...], jnp.concatenate(weights), (1, 0))
                shrink = jnp.exp2(top[:, done] - now)
                top[:, done] = now
                total[:, done] = total[:, done] * shrink + sums.sum(0, keepdims=True)
                acc[:, done] = acc[:, done] * shrink + out
            if tile is not None:
                now = jnp.maximum(top[:, tile], strip.max(0, keepdims=True))
                previous = tile, scores, now

    masked = schedule.is_masked(code)
    if not blocks.ONLY:
        pl.when(masked)(lambda: visit(True))
    pl.when(jnp.logical_not(masked))(lambda: visit(False))

    @pl.when(schedule.closes(code))
    def _():
        out_ref[...] = (acc[...] / total[...]).T.astype(out_ref.dtype)
        lse_ref[...] = (top[...] + jnp.log2(total[...])) / blocks.LOG2E
