"""Attention over ranges of keys on a TPU: the forward kernel.

Scores have keys as rows, so per-query statistics (maximum, sum, first and last key) are row
vectors, one register for 1024 queries, and the weights have the layout of a stationary operand of
the matrix unit. Queries and outputs are stored token-minor, which is the layout that XLA chooses
for the products with weights before and after, so no transposes are needed. For one head and one
pair of blocks:

      k [S, H]          scores [S, T]           v^T [V, S]
     +--------+        +-------------+        +-----------+       +-------------+
     |        |  q^T   | exp2(. - m) |        |           |   p   |             |
     |        | -----> |      p      |        |           | ----> | out^T [V,T] |
     +--------+        +-------------+        +-----------+       +-------------+
      streams           max, sum down          streams             accumulates

Grid: (heads, visits), see `visits.py` and `packed_visits.py`.
Blocks, bfloat16, double-buffered: q^T [H, T], k [S, H], v^T [V, S], out^T [V, T].
VMEM with T = 2048, S = 1024, H = 256, V = 128: 4.5 MiB of blocks, 1 MiB of float32 scratch ([V, T]
and three rows), and the compiler's spills of 12 MiB of scores and weights.
FLOPs per visit: 2 T S (H + V).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from ivx.kernels import choice, masking
from ivx.kernels.dense_attention import blocks, packed_visits
from ivx.kernels.dense_attention.blocks import block_for, constraint
from ivx.kernels.dense_attention.tpu_backward import backward
from ivx.kernels.dense_attention.visits import KeyRange, list_visits

__all__ = ["backward", "block_for", "constraint", "forward"]


def forward(
    q_bkgth: Float[Array, "b k g t h"],
    k_bksh: Float[Array, "b k s h"],
    v_bksv: Float[Array, "b k s v"],
    key_range: KeyRange,
    scale: float,
) -> tuple[Float[Array, "b k g t v"], Float[Array, "b k g t"]]:
    """Outputs in the dtype of v, and log-sum-exps, float32.

    T and S are multiples of their `block_for`. The rows of a query block without visits are
    uninitialized.
    """
    batch, kv_heads, group, length, width = q_bkgth.shape
    keys, values = v_bksv.shape[2:]
    q_block, k_block = blocks.forward_block(length), block_for(keys)
    visits = list_visits(key_range, keys, q_block, k_block)
    heads = kv_heads * group
    q_bnht = blocks.scale_queries(q_bkgth, scale).swapaxes(3, 4)
    q_bnht = q_bnht.reshape(batch, heads, width, length)

    key_head = (lambda n: n) if group == 1 else (lambda n: jax.lax.div(n, group))
    range_window = packed_visits.window((1, q_block), 1, packed_visits.query_of, lambda n: 0)
    out, lse = pl.pallas_call(
        _kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(heads, visits.count),
            in_specs=[
                packed_visits.window((width, q_block), 1, packed_visits.query_of),
                packed_visits.window((k_block, width), 0, packed_visits.key_of, key_head),
                packed_visits.window((values, k_block), 1, packed_visits.key_of, key_head),
                range_window,
                range_window,
            ],
            out_specs=[
                packed_visits.window((values, q_block), 1, packed_visits.query_of),
                packed_visits.window((1, q_block), 1, packed_visits.query_of),
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
        packed_visits.encode(visits),
        q_bnht,
        k_bksh,
        v_bksv.swapaxes(2, 3),
        key_range.first[:, None, None],
        key_range.last[:, None, None],
    )
    out_bkgvt = out.reshape(batch, kv_heads, group, values, length)
    return out_bkgvt.swapaxes(3, 4), lse.reshape(q_bkgth.shape[:4])


def _kernel(
    code_ref: Any,
    q_t_ref: Any,
    k_ref: Any,
    v_t_ref: Any,
    first_ref: Any,
    last_ref: Any,
    out_t_ref: Any,
    lse_ref: Any,
    acc: Any,
    top: Any,
    total: Any,
    pending: Any,
) -> None:
    """One visit of one head.

    Computing the maxima of a visit requires all its scores, and the matrix unit would wait for the
    exponentials. So the fast path subtracts the maxima of earlier visits and rescales to the new
    maxima afterwards. If a maximum rises by more than HEADROOM, the weights may have overflowed.
    The query is then left unchanged, marked as pending, and processed again on the exact path.
    """
    code = code_ref[pl.program_id(1)]
    block = k_ref.shape[0]

    @pl.when(packed_visits.opens(code))
    def _() -> None:
        acc[...] = jnp.zeros_like(acc)
        top[...] = jnp.full_like(top, masking.MASKED)
        total[...] = jnp.zeros_like(total)

    def attend(tile: pl.Slice, exact: bool) -> None:
        scores = blocks.product(k_ref[...], q_t_ref[:, tile], (1, 0))
        if exact:
            key = packed_visits.key_of(code) * block
            visible = blocks.visible(first_ref[:, tile], last_ref[:, tile], key, block)
            scores = jnp.where(visible, scores, masking.MASKED)
        old_top = top[:, tile]
        block_top = blocks.reduce_strips(jnp.maximum, scores).max(0, keepdims=True)
        new_top = jnp.maximum(old_top, block_top)
        # A row without a visible key so far gets weights of 1 here. Its first real maximum rescales
        # them to 0.
        weights = jnp.exp2(scores - (new_top if exact else old_top))
        sums = blocks.reduce_strips(jnp.add, weights).sum(0, keepdims=True)
        part = blocks.product(v_t_ref[...], weights.astype(v_t_ref.dtype), (1, 0))
        decay = jnp.exp2(old_top - new_top)
        if exact:
            valid = pending[:, tile] > 0
            new_acc, new_total = acc[:, tile] * decay + part, total[:, tile] * decay + sums
        else:
            valid = new_top - old_top <= blocks.HEADROOM
            new_acc, new_total = (acc[:, tile] + part) * decay, (total[:, tile] + sums) * decay
            pending[:, tile] = jnp.where(valid, 0.0, 1.0)
        acc[:, tile] = jnp.where(valid, new_acc, acc[:, tile])
        total[:, tile] = jnp.where(valid, new_total, total[:, tile])
        top[:, tile] = jnp.where(valid, new_top, old_top)

    def attend_exact() -> None:
        for tile in blocks.tiles(q_t_ref.shape[1], blocks.TILE):
            attend(tile, exact=True)

    # The first visit has no earlier maxima.
    slow = packed_visits.is_masked(code) | packed_visits.opens(code)

    @pl.when(slow)
    def _() -> None:
        pending[...] = jnp.ones_like(pending)

    @pl.when(jnp.logical_not(slow))
    def _() -> None:
        for tile in blocks.tiles(q_t_ref.shape[1], blocks.TILE):
            attend(tile, exact=False)

    pl.when(jnp.max(pending[...]) > 0)(attend_exact)

    @pl.when(packed_visits.closes(code))
    def _() -> None:
        out_t_ref[...] = (acc[...] / total[...]).astype(out_t_ref.dtype)
        lse_ref[...] = (top[...] + jnp.log2(total[...])) / blocks.LOG2E
