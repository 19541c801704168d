"""Which samples share a pack, and which packs share a batch.

    fill    packs are filled one after the other with what comes next; when that has no room, the
            gap is filled with the largest samples that fit it, from all that are left
    level   packs are sorted by the cost of their attention, the sum of the squared lengths of
            their samples; neighbours make a batch, and the batches are shuffled

The first keeps the mix of a pack random and leaves hardly a place empty; the second makes the
packs of a step take equally long, on whichever hosts they are.

Shapes: n samples, r runs of equal slices.
"""

import bisect
import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipelines import packing

# Samples tried for a gap that are short enough and then do not fit: slices may not straddle blocks,
# and what does not fit once will seldom fit when it is a little smaller.
_TRIES = 64


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What samples need, in columns, so that millions of them are a few arrays.

    Attributes:
      tokens: int64 [n].
      runs: int64 [r, 2], (patches of a slice, slices) of each video and image, sample by sample.
      bounds: int64 [n + 1], sample i has the runs from bounds[i] to bounds[i + 1].
    """

    tokens: np.ndarray
    runs: np.ndarray
    bounds: np.ndarray

    @classmethod
    def of(cls, sizes: Sequence[packing.Size]) -> "Sizes":
        """Columns of single sizes."""
        runs = [run for size in sizes for run in size.runs]
        return cls(
            np.array([size.tokens for size in sizes], np.int64),
            np.array(runs, np.int64).reshape(-1, 2),
            np.cumsum([0] + [len(size.runs) for size in sizes], dtype=np.int64),
        )

    @classmethod
    def join(cls, parts: Sequence["Sizes"]) -> "Sizes":
        """Several one after the other."""
        counts = np.concatenate([np.diff(part.bounds) for part in parts])
        return cls(
            np.concatenate([part.tokens for part in parts]),
            np.concatenate([part.runs for part in parts]),
            np.concatenate([[0], np.cumsum(counts)]),
        )

    def __len__(self) -> int:
        return len(self.tokens)

    def __iter__(self) -> Iterator[packing.Size]:
        runs = list(map(tuple, self.runs.tolist()))
        bounds = self.bounds.tolist()
        for tokens, first, last in zip(self.tokens.tolist(), bounds, bounds[1:], strict=False):
            yield packing.Size(tokens, tuple(runs[first:last]))

    def take(self, chosen: np.ndarray) -> "Sizes":
        """Those at these indices, int [m]."""
        counts = np.diff(self.bounds)[chosen]
        bounds = np.concatenate([[0], np.cumsum(counts)])
        # Row k of the result is row k - bounds[i] of its sample i.
        rows = np.arange(bounds[-1]) + np.repeat(self.bounds[chosen] - bounds[:-1], counts)
        return Sizes(self.tokens[chosen], self.runs[rows], bounds)

    def patches(self) -> np.ndarray:
        """Patches of each sample: int64 [n]."""
        totals = np.concatenate([[0], np.cumsum(self.runs.prod(1))])
        return totals[self.bounds[1:]] - totals[self.bounds[:-1]]


def fill(sizes: Sizes, shape: packing.PackShape) -> list[list[int]]:
    """Assigns samples to packs, each a list of indices into `sizes`; all samples fit alone."""
    filler = _Filler(list(sizes), shape)
    packs = []
    while pack := filler.next_pack():
        packs.append(pack)
    return packs


class _Filler:
    """Samples not yet in a pack: in their order, and by need."""

    def __init__(self, sizes: list[packing.Size], shape: packing.PackShape):
        self._sizes, self._shape = sizes, shape
        self._taken = bytearray(len(sizes))
        self._next = 0
        # With and without pictures, since patches may be used up before tokens are.
        self._needs = [self._need(size) for size in sizes]
        self._shelves = [
            _Shelves(self._needs, self._taken, [bool(s.runs) == seen for s in sizes])
            for seen in (True, False)
        ]

    def _need(self, size: packing.Size) -> int:
        """Tokens, or the tokens that stand for its share of patches, whichever is more."""
        rows = packing.rows_after(size.runs, 0, self._shape.slice_block)
        return max(size.tokens, -(-rows * self._shape.tokens // self._shape.patches))

    def next_pack(self) -> list[int]:
        """The next pack; empty when no sample is left."""
        pack, tokens, rows = [], self._shape.tokens, 0

        def take(index: int) -> bool:
            nonlocal tokens, rows
            size = self._sizes[index]
            after = packing.rows_after(size.runs, rows, self._shape.slice_block)
            if size.tokens > tokens or after > self._shape.patches:
                return False
            tokens, rows = tokens - size.tokens, after
            self._taken[index] = True
            pack.append(index)
            return True

        while self._next < len(self._sizes) and (self._taken[self._next] or take(self._next)):
            self._next += 1
        for shelves, seen in zip(self._shelves, (True, False), strict=True):
            found = True
            while found:
                spare = (self._shape.patches - rows) * self._shape.tokens // self._shape.patches
                room = min(tokens, spare) if seen else tokens
                found = any(map(take, itertools.islice(shelves.fitting(room), _TRIES)))
        return pack


class _Shelves:
    """Samples by need, so that the largest below a bound are found at once."""

    def __init__(self, needs: list[int], taken: bytearray, held: list[bool]):
        self._taken = taken
        self._shelves: dict[int, list[int]] = {}
        # What comes first is taken first, from the end of its shelf.
        for index in range(len(needs) - 1, -1, -1):
            if held[index]:
                self._shelves.setdefault(needs[index], []).append(index)
        self._needs = sorted(self._shelves)

    def fitting(self, room: int) -> Iterator[int]:
        """One sample of each need up to `room`, the largest first."""
        at = bisect.bisect_right(self._needs, room)
        while at:
            at -= 1
            shelf = self._shelves[self._needs[at]]
            while shelf and self._taken[shelf[-1]]:
                shelf.pop()
            if shelf:
                yield shelf[-1]
            else:
                del self._needs[at]


def costs(packs: Sequence[Sequence[int]], sizes: Sizes) -> np.ndarray:
    """Sum of the squared lengths of the samples of each pack: float64 [packs]."""
    counts = np.array([len(pack) for pack in packs])
    squares = sizes.tokens[np.concatenate(packs)].astype(np.float64) ** 2
    return np.add.reduceat(squares, np.cumsum(counts) - counts)


def level(cost: np.ndarray, batch: int, rng: np.random.Generator) -> np.ndarray:
    """An order of packs in which those of a batch cost alike: int64 [packs].

    Args:
      cost: of each pack, float64 [packs], a whole number of batches.
      batch: packs of one.
      rng: shuffles the batches.
    """
    return rng.permutation(np.argsort(cost, kind="stable").reshape(-1, batch)).reshape(-1)


def unevenness(cost: np.ndarray, batch: int) -> float:
    """Mean over batches of the cost of the dearest pack over the mean: 1 is even.

    Args:
      cost: of packs in the order of training, float64 [packs], a whole number of batches.
      batch: packs of one.
    """
    rows = cost.reshape(-1, batch)
    return float((rows.max(1) / rows.mean(1)).mean())
