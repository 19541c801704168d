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

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from ivx.kernels import choice, masking
from ivx.kernels.dense_attention import schedule
from ivx.kernels.dense_attention.visits import Seen, visits

# Queries and keys of one visit; multiples of 128.
BLOCK = 1024
# Keys whose scores are one softmax step: products of one step run beside the softmax of another.
STEP = 512
TILE = 256
MODE = 0
# Softmax in base 2, the base of the hardware.
LOG2E = 1.4426950408889634
VMEM_LIMIT = 48 * 2**20


def constraint(q_bkgth: Array, k_bksh: Array, v_bksv: Array) -> str:
    """What of these shapes the kernels do not take; empty where they take them."""
    batch, _, _, length, width = q_bkgth.shape
    values = v_bksv.shape[-1]
    if width % 128 or values % 128:
        return f"widths of keys {width} and of values {values} must be multiples of 128"
    if batch > schedule.MOST_BATCH:
        return f"a batch of {batch} on a device is more than {schedule.MOST_BATCH}"
    if max(length, k_bksh.shape[2]) > BLOCK * schedule.MOST_BLOCKS:
        return f"more than {BLOCK * schedule.MOST_BLOCKS} tokens"
    return ""


def block_for(length: int) -> int:
    """BLOCK, or less for a short sequence."""
    return min(BLOCK, -(-length // 128) * 128)


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
    q_block, k_block = block_for(length), block_for(keys)
    pairs = visits(seen, keys, q_block, k_block)
    q_bnth = scaled(q_bkgth, scale).reshape(batch, kv_heads * shared, length, width)

    shared_head = (lambda n: n) if shared == 1 else (lambda n: jax.lax.div(n, shared))
    of_pack = schedule.window((1, q_block), 1, schedule.query_of, lambda n: 0)
    out, lse = pl.pallas_call(
        functools.partial(_kernel, step=min(STEP, k_block)),
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
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=VMEM_LIMIT
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


def scaled(q: Array, scale: float) -> Array:
    """Queries whose products with keys are scores in base 2, once for all keys that they meet."""
    return (q.astype(jnp.float32) * (scale * LOG2E)).astype(q.dtype)


def visible(first_1t: Array, last_1t: Array, key_begin: Array | int, keys: int) -> Array:
    """Whether key_begin + s is seen by query t, bool [S, T]."""
    shape = (keys, first_1t.shape[1])
    key = key_begin + jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    return (key >= first_1t) & (key <= last_1t)


def tiles(size: int) -> list[pl.Slice]:
    """A block of this many tokens in parts, which do not wait for each other."""
    tile = math.gcd(TILE, size)
    return [pl.ds(begin, tile) for begin in range(0, size, tile)]


def product(a: Array, b: Array, contract: tuple[int, int]) -> Array:
    """a b over these axes, accumulated in float32."""
    return jax.lax.dot_general(
        a, b, (((contract[0],), (contract[1],)), ((), ())), preferred_element_type=jnp.float32
    )


def _kernel(
    code_ref, q_ref, k_ref, vt_ref, first_ref, last_ref, out_ref, lse_ref, acc, top, total, *, step
):
    """One visit of one head."""
    code = code_ref[pl.program_id(1)]
    block = k_ref.shape[0]

    @pl.when(schedule.opens(code))
    def _():
        acc[...] = jnp.zeros_like(acc)
        top[...] = jnp.full_like(top, masking.MASKED)
        total[...] = jnp.zeros_like(total)

    def visit(masked: bool) -> None:
        parts = tiles(q_ref.shape[0])

        def scores_of(tile):
            scores = product(k_ref[...], q_ref[tile], (1, 1))
            if masked:
                seen = visible(
                    first_ref[:, tile], last_ref[:, tile], schedule.key_of(code) * block, block
                )
                scores = jnp.where(seen, scores, masking.MASKED)
            return scores, jnp.maximum(top[:, tile], scores.max(0, keepdims=True))

        def finish(tile, scores, now):
            # A row that has seen nothing yet takes weights of 1 here; its first real maximum turns
            # them to 0.
            weights = jnp.exp2(scores - now)
            shrink = jnp.exp2(top[:, tile] - now)
            top[:, tile] = now
            total[:, tile] = total[:, tile] * shrink + weights.sum(0, keepdims=True)
            weights = weights.astype(vt_ref.dtype)
            acc[:, tile] = acc[:, tile] * shrink + product(vt_ref[...], weights, (1, 0))

        if MODE == 0:
            for tile in parts:
                finish(tile, *scores_of(tile))
        elif MODE == 1:
            ahead = scores_of(parts[0])
            for tile, following in zip(parts, [*parts[1:], None], strict=True):
                current = ahead
                if following is not None:
                    ahead = scores_of(following)
                finish(tile, *current)

    masked = schedule.is_masked(code)
    pl.when(masked)(lambda: visit(True))
    pl.when(jnp.logical_not(masked))(lambda: visit(False))

    @pl.when(schedule.closes(code))
    def _():
        out_ref[...] = (acc[...] / total[...]).T.astype(out_ref.dtype)
        lse_ref[...] = (top[...] + jnp.log2(total[...])) / LOG2E
