"""One program of the TPU kernel: some query tokens of a sequence over their visible blocks.

While the MXU computes the scores of block j + 1, the softmax of block j runs on the VPU, and the
MXU continues with its weights and latents. Within a step neither unit waits for the other.

If the MXU multiplies the dtype of one-byte entries, they are used as stored, with queries and
weights split into terms (`split_precision`). Otherwise they are converted to the dtype of the
queries.

Shapes: rows (m) are tokens x heads; scores_mb of a block of b entries, float32, in base 2.
"""

import dataclasses
import math
import types
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.typing import DTypeLike

from ivx.kernels import masking
from ivx.kernels.latent_decode import split_precision
from ivx.kernels.latent_decode.blocks import SLOTS, CacheBlocks, Scalar

LOG2_E = math.log2(math.e)
# Entries per score product.
PIECE = 1024


@dataclasses.dataclass(frozen=True)
class Plan:
    """Static sizes of a program.

    Attributes:
      rank: R.
      scale: scale of the scores.
      count: T, query tokens per sequence.
      tokens: query tokens per program.
      programs: programs per sequence, count / tokens rounded up.
      splits: number of parts into which the blocks of a sequence are split.
      capacity: S.
    """

    rank: int
    scale: float
    count: int
    tokens: int
    programs: int
    splits: int
    capacity: int


class _BlockSpan(NamedTuple):
    """Blocks `first` to `last` of sequence `row`, whose entries end at `end`.

    A span has at least one block. In an empty span that block is all zeros and fetches nothing.
    """

    row: jax.Array
    end: jax.Array
    first: jax.Array
    last: jax.Array


def program(*references: Any, names: tuple[str, ...], plan: Plan, page: int) -> None:
    """The kernel body.

    Args:
      *references: refs of arguments, results and scratch, in the order of `names`.
      names: lengths, [table], queries, [query_scales], [token], entries, [scales]; context, lse;
        entry_slots, [scale_slots], semaphores, slot, scores, top, total, sum.
      plan: static sizes.
      page: entries per copy near the end of a sequence.
    """
    ref = types.SimpleNamespace(**dict(zip(names, references, strict=True)))
    optional = lambda name: getattr(ref, name, None)  # noqa: E731
    blocks = CacheBlocks(
        ref.entries,
        optional("scales"),
        optional("table"),
        ref.entry_slots,
        optional("scale_slots"),
        ref.semaphores,
        page,
    )
    index, programs = pl.program_id(1), pl.num_programs(1)
    span = _block_span(ref.lengths, index, plan, blocks.block)
    next_span = _block_span(ref.lengths, jnp.minimum(index + 1, programs - 1), plan, blocks.block)
    split = optional("query_scales") is not None
    products = (_SplitProducts if split else _FloatProducts)(ref, plan)
    limit = _visible_end(ref, optional("token"), index, span, plan)

    def prefetch_after(block: Scalar, slot: Scalar) -> None:
        """Starts to fetch the block after `block`, or the first block of the next program."""
        more = block + 1 < span.last

        @pl.when(more | (index + 1 < programs))
        def _() -> None:
            blocks.start(
                jnp.where(more, span.row, next_span.row),
                jnp.where(more, block + 1, next_span.first),
                _next_slot(slot),
                jnp.where(more, span.end, next_span.end),
            )

    def compute_scores(block: Scalar, slot: Scalar) -> list[jax.Array]:
        """Masked scores of each piece of a block."""
        pieces = []
        for first, count in _pieces(blocks.block):
            scores = products.scores(slot, first, count)
            entry = block * blocks.block + first
            entry += lax.broadcasted_iota(jnp.int32, scores.shape, 1)
            pieces.append(jnp.where(entry < limit, scores, masking.MASKED))
        return pieces

    def store_scores(pieces: list[jax.Array]) -> None:
        for (first, count), piece in zip(_pieces(blocks.block), pieces, strict=True):
            ref.scores[:, first : first + count] = piece

    def softmax() -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """The new maximum, this block's weights, their total, and the decay of earlier weights."""
        scores, top = ref.scores[...], ref.top[:, :1]
        new_top = jnp.maximum(top, scores.max(1, keepdims=True))
        weights, decay = jnp.exp2(scores - new_top), jnp.exp2(top - new_top)
        return new_top, weights, decay * ref.total[:, :1] + weights.sum(1, keepdims=True), decay

    def add_context(slot: Scalar, weights: jax.Array, decay: jax.Array) -> jax.Array:
        """The weighted sum of latents with this block added."""
        context = ref.sum[...] * decay
        for first, count in _pieces(blocks.block):
            context += products.weighted(slot, first, count, weights[:, first : first + count])
        return context

    @pl.when(index == 0)
    def _() -> None:
        ref.slot[0] = 0
        blocks.start(span.row, span.first, 0, span.end)

    ref.top[...] = jnp.full_like(ref.top, masking.MASKED)
    ref.total[...] = jnp.zeros_like(ref.total)
    ref.sum[...] = jnp.zeros_like(ref.sum)
    slot = ref.slot[0]
    prefetch_after(span.first, slot)
    blocks.wait(span.row, span.first, slot, span.end)
    store_scores(compute_scores(span.first, slot))

    def step(block: jax.Array, slot: jax.Array) -> jax.Array:
        next_slot = _next_slot(slot)
        prefetch_after(block + 1, next_slot)
        blocks.wait(span.row, block + 1, next_slot, span.end)
        # All reads precede all writes, so that everything may overlap.
        new_top, weights, total, decay = softmax()
        pieces = compute_scores(block + 1, next_slot)
        context = add_context(slot, weights, decay)
        store_scores(pieces)
        ref.sum[...] = context
        ref.total[...] = jnp.broadcast_to(total, ref.total.shape)
        ref.top[...] = jnp.broadcast_to(new_top, ref.top.shape)
        return next_slot

    slot = lax.fori_loop(span.first, span.last - 1, step, slot)
    new_top, weights, total, decay = softmax()
    context = add_context(slot, weights, decay)
    ref.slot[0] = _next_slot(slot)
    # If no entry is visible, all entries have the same weight.
    visible = new_top > masking.MASKED / 2
    ref.context[0, 0, 0] = jnp.where(visible, context / total, 0).astype(ref.context.dtype)
    lse = jnp.where(visible, (new_top + jnp.log2(total)) / LOG2_E, masking.MASKED)
    ref.lse[0, 0, 0] = jnp.broadcast_to(lse, ref.lse.shape[3:])


class _FloatProducts:
    """Products in the dtype of the queries; scales of entries multiply scores and weights."""

    def __init__(self, ref: Any, plan: Plan) -> None:
        self.ref, self.plan = ref, plan
        self.scaled = hasattr(ref, "scale_slots")

    def scores(self, slot: Scalar, first: int, count: int) -> jax.Array:
        queries = self.ref.queries[0, 0]
        entries = self.ref.entry_slots[slot, first : first + count].astype(queries.dtype)
        scores = _dot(queries, entries, 1, jnp.float32) * (self.plan.scale * LOG2_E)
        return scores * self._scales(slot, first, count) if self.scaled else scores

    def weighted(self, slot: Scalar, first: int, count: int, weights: jax.Array) -> jax.Array:
        dtype = self.ref.queries.dtype
        latents = self.ref.entry_slots[slot, first : first + count, : self.plan.rank].astype(dtype)
        if self.scaled:
            weights *= self._scales(slot, first, count)
        return _dot(weights.astype(dtype), latents, 0, jnp.float32)

    def _scales(self, slot: Scalar, first: int, count: int) -> jax.Array:
        return self.ref.scale_slots[slot, :, first : first + count]


class _SplitProducts(_FloatProducts):
    """Products of entries as stored, with queries and weights split into terms of that dtype.

    Weights are relative to the largest scale of the block.
    """

    def __init__(self, ref: Any, plan: Plan) -> None:
        super().__init__(ref, plan)
        self.format = split_precision.FORMATS[jnp.dtype(ref.entry_slots.dtype)]

    def scores(self, slot: Scalar, first: int, count: int) -> jax.Array:
        fmt = self.format
        entries = self.ref.entry_slots[slot, first : first + count]
        term_scores = _dot(self.ref.queries[0, 0], entries, 1, fmt.accumulator)
        scales = self.ref.query_scales[0, 0, :, :1] * (self.plan.scale * LOG2_E)
        scores = split_precision.combine(term_scores, fmt, fmt.query_terms)
        return scores * scales * self._scales(slot, first, count)

    def weighted(self, slot: Scalar, first: int, count: int, weights: jax.Array) -> jax.Array:
        fmt = self.format
        latents = self.ref.entry_slots[slot, first : first + count, : self.plan.rank]
        scales = self._scales(slot, first, count)
        largest = jnp.maximum(scales.max(1, keepdims=True), jnp.finfo(jnp.float32).tiny)
        weights *= scales * (fmt.max_abs / largest)
        terms = split_precision.split(weights, fmt, fmt.weight_terms)
        sums = _dot(terms, latents, 0, fmt.accumulator)
        return split_precision.combine(sums, fmt, fmt.weight_terms) * (largest / fmt.max_abs)


def _dot(rows: jax.Array, entries: jax.Array, axis: int, dtype: DTypeLike) -> jax.Array:
    """Contracts the last axis of the rows with this axis of the entries."""
    return lax.dot_general(rows, entries, (((1,), (axis,)), ((), ())), preferred_element_type=dtype)


def _block_span(lengths: Any, index: Scalar, plan: Plan, block: int) -> _BlockSpan:
    """The blocks that program `index` visits in this split."""
    row, part = lax.div(index, plan.programs), lax.rem(index, plan.programs)
    tokens = jnp.minimum((part + 1) * plan.tokens, plan.count)
    end = jnp.clip(lengths[row] + tokens, 0, plan.capacity)
    blocks = lax.div(end + block - 1, block)
    share = lax.div(blocks + plan.splits - 1, plan.splits)
    first = pl.program_id(0) * share
    return _BlockSpan(row, end, first, jnp.maximum(jnp.minimum(first + share, blocks), first + 1))


def _visible_end(ref: Any, token: Any, index: Scalar, span: _BlockSpan, plan: Plan) -> jax.Array:
    """End of the visible entries, for all rows or [m, 1]."""
    if token is None:
        return span.end
    part = lax.rem(index, plan.programs)
    visible = ref.lengths[span.row] + part * plan.tokens + token[:, :1] + 1
    return jnp.minimum(visible, span.end)


def _next_slot(slot: Scalar) -> jax.Array:
    return jnp.where(slot == SLOTS - 1, 0, slot + 1)


def _pieces(block: int) -> list[tuple[int, int]]:
    """(first entry, count) of the pieces of a block."""
    return [(first, min(PIECE, block - first)) for first in range(0, block, PIECE)]
