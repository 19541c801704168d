"""One program of the TPU kernel: some query tokens of a sequence over the blocks that they see.

While the MXU makes the scores of block j + 1, the softmax of block j runs on the VPU, and the MXU
goes on with its weights and latents: within a step neither waits for the other.

Entries of a byte are multiplied as they are where the MXU does so, with queries and weights in
`digits`; else they are converted to the dtype of the queries.

Shapes: rows (m) are tokens x heads; scores_mb of a block of b entries, float32, in powers of two.
"""

import dataclasses
import math
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from ivx.kernels import masking
from ivx.kernels.latent_decode import digits
from ivx.kernels.latent_decode.blocks import SLOTS, Blocks

LOG2_E = math.log2(math.e)
# Entries whose scores are one product.
PIECE = 1024


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a program knows when it is compiled.

    Attributes:
      rank: R.
      scale: of scores.
      count: T, query tokens of a sequence.
      tokens: of them in one program.
      programs: of a sequence, count / tokens rounded up.
      splits: parts that the blocks of a sequence are visited in.
      room: S.
    """

    rank: int
    scale: float
    count: int
    tokens: int
    programs: int
    splits: int
    room: int


class _Span(NamedTuple):
    """The blocks of one program: `first` to `last` of sequence `row`, whose entries stop at `end`.

    There is always one; in an empty span it is all zeros and fetches nothing.
    """

    row: jax.Array
    end: jax.Array
    first: jax.Array
    last: jax.Array


def program(*references, names: tuple[str, ...], plan: Plan, page: int) -> None:
    """The kernel's body.

    Args:
      references: of arguments, results and scratch, in the order of `names`.
      names: lengths, [table], queries, [query_scales], [token], entries, [scales]; context, lse;
        entry_slots, [scale_slots], arrived, slot, scores, top, total, sum.
      plan: sizes.
      page: entries that are copied together near the end of a sequence.
    """
    ref = types.SimpleNamespace(**dict(zip(names, references, strict=True)))
    optional = lambda name: getattr(ref, name, None)  # noqa: E731
    blocks = Blocks(
        ref.entries,
        optional("scales"),
        optional("table"),
        ref.entry_slots,
        optional("scale_slots"),
        ref.arrived,
        page,
    )
    number, programs = pl.program_id(1), pl.num_programs(1)
    span = _span(ref.lengths, number, plan, blocks.block)
    following = _span(ref.lengths, jnp.minimum(number + 1, programs - 1), plan, blocks.block)
    products = (_Bytes if optional("query_scales") is not None else _Floats)(ref, plan)
    limit = _limit(ref, optional("token"), number, span, plan)

    def fetch_after(block, slot) -> None:
        """Starts what comes after `block`: the next one, or the first of the next program."""
        more = block + 1 < span.last

        @pl.when(more | (number + 1 < programs))
        def _():
            blocks.start(
                jnp.where(more, span.row, following.row),
                jnp.where(more, block + 1, following.first),
                _next(slot),
                jnp.where(more, span.end, following.end),
            )

    def score(block, slot) -> list[jax.Array]:
        """Scores of each piece of a block, masked."""
        pieces = []
        for first, count in _pieces(blocks.block):
            scores = products.scores(slot, first, count)
            place = block * blocks.block + first
            place += lax.broadcasted_iota(jnp.int32, scores.shape, 1)
            pieces.append(jnp.where(place < limit, scores, masking.MASKED))
        return pieces

    def keep(pieces: list[jax.Array]) -> None:
        for (first, count), piece in zip(_pieces(blocks.block), pieces, strict=True):
            ref.scores[:, first : first + count] = piece

    def softmax():
        """The highest score so far, weights of this block, their total, what the old ones fade."""
        scores, top = ref.scores[...], ref.top[:, :1]
        higher = jnp.maximum(top, scores.max(1, keepdims=True))
        weights, fade = jnp.exp2(scores - higher), jnp.exp2(top - higher)
        return higher, weights, fade * ref.total[:, :1] + weights.sum(1, keepdims=True), fade

    def weigh(slot, weights, fade) -> jax.Array:
        """The sum of weighted latents, this block's added."""
        found = ref.sum[...] * fade
        for first, count in _pieces(blocks.block):
            found += products.weighted(slot, first, count, weights[:, first : first + count])
        return found

    @pl.when(number == 0)
    def _():
        ref.slot[0] = 0
        blocks.start(span.row, span.first, 0, span.end)

    ref.top[...] = jnp.full_like(ref.top, masking.MASKED)
    ref.total[...] = jnp.zeros_like(ref.total)
    ref.sum[...] = jnp.zeros_like(ref.sum)
    slot = ref.slot[0]
    fetch_after(span.first, slot)
    blocks.wait(span.row, span.first, slot, span.end)
    keep(score(span.first, slot))

    def step(block, slot):
        after = _next(slot)
        fetch_after(block + 1, after)
        blocks.wait(span.row, block + 1, after, span.end)
        # Nothing is written before everything is read, so that all of it may overlap.
        higher, weights, total, fade = softmax()
        pieces = score(block + 1, after)
        found = weigh(slot, weights, fade)
        keep(pieces)
        ref.sum[...] = found
        ref.total[...] = jnp.broadcast_to(total, ref.total.shape)
        ref.top[...] = jnp.broadcast_to(higher, ref.top.shape)
        return after

    slot = lax.fori_loop(span.first, span.last - 1, step, slot)
    higher, weights, total, fade = softmax()
    found = weigh(slot, weights, fade)
    ref.slot[0] = _next(slot)
    # Where nothing was seen every entry had the same weight.
    seen = higher > masking.MASKED / 2
    ref.context[0, 0, 0] = jnp.where(seen, found / total, 0).astype(ref.context.dtype)
    lse = jnp.where(seen, (higher + jnp.log2(total)) / LOG2_E, masking.MASKED)
    ref.lse[0, 0, 0] = jnp.broadcast_to(lse, ref.lse.shape[3:])


class _Floats:
    """Products in the dtype of the queries; the scale of an entry multiplies what is made of it."""

    def __init__(self, ref, plan: Plan):
        self.ref, self.plan = ref, plan
        self.scaled = hasattr(ref, "scale_slots")

    def scores(self, slot, first: int, count: int) -> jax.Array:
        queries = self.ref.queries[0, 0]
        entries = self.ref.entry_slots[slot, first : first + count].astype(queries.dtype)
        scores = _dot(queries, entries, 1, jnp.float32) * (self.plan.scale * LOG2_E)
        return scores * self._scales(slot, first, count) if self.scaled else scores

    def weighted(self, slot, first: int, count: int, weights: jax.Array) -> jax.Array:
        dtype = self.ref.queries.dtype
        latents = self.ref.entry_slots[slot, first : first + count, : self.plan.rank].astype(dtype)
        if self.scaled:
            weights *= self._scales(slot, first, count)
        return _dot(weights.astype(dtype), latents, 0, jnp.float32)

    def _scales(self, slot, first: int, count: int) -> jax.Array:
        return self.ref.scale_slots[slot, :, first : first + count]


class _Bytes(_Floats):
    """Products of entries as they are stored, with queries and weights in digits like them.

    Weights are counted in units of the largest scale of the block.
    """

    def __init__(self, ref, plan: Plan):
        super().__init__(ref, plan)
        self.kind = digits.KINDS[jnp.dtype(ref.entry_slots.dtype)]

    def scores(self, slot, first: int, count: int) -> jax.Array:
        entries = self.ref.entry_slots[slot, first : first + count]
        sums = _dot(self.ref.queries[0, 0], entries, 1, self.kind.sums)
        scales = self.ref.query_scales[0, 0, :, :1] * (self.plan.scale * LOG2_E)
        scores = digits.join(sums, self.kind, self.kind.queries)
        return scores * scales * self._scales(slot, first, count)

    def weighted(self, slot, first: int, count: int, weights: jax.Array) -> jax.Array:
        latents = self.ref.entry_slots[slot, first : first + count, : self.plan.rank]
        scales = self._scales(slot, first, count)
        largest = jnp.maximum(scales.max(1, keepdims=True), jnp.finfo(jnp.float32).tiny)
        weights *= scales * (self.kind.unit / largest)
        sums = _dot(digits.split(weights, self.kind, self.kind.weights), latents, 0, self.kind.sums)
        return digits.join(sums, self.kind, self.kind.weights) * (largest / self.kind.unit)


def _dot(rows, entries, axis: int, dtype) -> jax.Array:
    """rows . entries over this axis of the entries and the last of the rows."""
    return lax.dot_general(rows, entries, (((1,), (axis,)), ((), ())), preferred_element_type=dtype)


def _span(lengths, number, plan: Plan, block: int) -> _Span:
    """The blocks that program `number` visits in this split."""
    row, part = lax.div(number, plan.programs), lax.rem(number, plan.programs)
    seen = jnp.minimum((part + 1) * plan.tokens, plan.count)
    end = jnp.clip(lengths[row] + seen, 0, plan.room)
    blocks = lax.div(end + block - 1, block)
    share = lax.div(blocks + plan.splits - 1, plan.splits)
    first = pl.program_id(0) * share
    return _Span(row, end, first, jnp.maximum(jnp.minimum(first + share, blocks), first + 1))


def _limit(ref, token, number, span: _Span, plan: Plan):
    """The entry at which what a row sees ends, of all rows or [m, 1]."""
    if token is None:
        return span.end
    part = lax.rem(number, plan.programs)
    seen = ref.lengths[span.row] + part * plan.tokens + token[:, :1] + 1
    return jnp.minimum(seen, span.end)


def _next(slot):
    """The slot after this one."""
    return jnp.where(slot == SLOTS - 1, 0, slot + 1)


def _pieces(block: int) -> list[tuple[int, int]]:
    """(first entry, count) of the pieces of a block."""
    return [(first, min(PIECE, block - first)) for first in range(0, block, PIECE)]
