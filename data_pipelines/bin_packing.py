"""Bin packing: which samples share a pack, and which packs share a batch.

    fill    Packs are filled one at a time with the next samples in order. When the next sample
            does not fit, the gap is filled with the largest remaining samples that fit.
    level   Packs are sorted by attention cost, the sum of the squared lengths of their samples.
            Neighbours form a batch, and batches are shuffled.

Filling keeps the mix of samples in a pack random and leaves little padding. Levelling makes all
packs of a step take about equally long, on whichever hosts they are.

Shapes: n samples, r runs of equal slices.
"""

import bisect
import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipelines import packing

# How many samples of fitting length to try for a gap. Such a sample may still not fit, because
# slices do not straddle blocks, and then slightly smaller samples seldom fit either.
_TRIES = 64


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of samples as columns, so that millions of them take a few arrays.

    Attributes:
      tokens: int64 [n], tokens of each sample.
      runs: int64 [r, 2], (patches per slice, slices) of each video and image, sample by sample.
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
        """Concatenates columns."""
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

    def take(self, indices: np.ndarray) -> "Sizes":
        """Selects samples by their indices, int [m]."""
        counts = np.diff(self.bounds)[indices]
        bounds = np.concatenate([[0], np.cumsum(counts)])
        # Row k of the result is row k - bounds[i] of its sample i.
        rows = np.arange(bounds[-1]) + np.repeat(self.bounds[indices] - bounds[:-1], counts)
        return Sizes(self.tokens[indices], self.runs[rows], bounds)

    def patches(self) -> np.ndarray:
        """Patches of each sample: int64 [n]."""
        totals = np.concatenate([[0], np.cumsum(self.runs.prod(1))])
        return totals[self.bounds[1:]] - totals[self.bounds[:-1]]


def fill(sizes: Sizes, shape: packing.PackShape) -> list[list[int]]:
    """Assigns samples to packs: lists of indices into `sizes`. Each sample must fit alone."""
    filler = _Filler(list(sizes), shape)
    packs = []
    while pack := filler.next_pack():
        packs.append(pack)
    return packs


class _Filler:
    """The samples that are not in a pack yet, in order and by size."""

    def __init__(self, sizes: list[packing.Size], shape: packing.PackShape) -> None:
        self._sizes, self._shape = sizes, shape
        self._packed = bytearray(len(sizes))
        self._next = 0
        # Samples with and without media apart, since patches may run out before tokens do.
        lengths = [self._length(size) for size in sizes]
        self._shelves = [
            _Shelves(lengths, self._packed, [bool(s.runs) == has_media for s in sizes])
            for has_media in (True, False)
        ]

    def _length(self, size: packing.Size) -> int:
        """Tokens, or the tokens that correspond to the share of patches, whichever is more."""
        rows = packing.rows_after(size.runs, 0, self._shape.slice_block)
        return max(size.tokens, -(-rows * self._shape.tokens // self._shape.patches))

    def next_pack(self) -> list[int]:
        """The next pack; empty when no sample is left."""
        pack, tokens, rows = [], self._shape.tokens, 0

        def add(index: int) -> bool:
            nonlocal tokens, rows
            size = self._sizes[index]
            after = packing.rows_after(size.runs, rows, self._shape.slice_block)
            if size.tokens > tokens or after > self._shape.patches:
                return False
            tokens, rows = tokens - size.tokens, after
            self._packed[index] = True
            pack.append(index)
            return True

        while self._next < len(self._sizes) and (self._packed[self._next] or add(self._next)):
            self._next += 1
        for shelves, has_media in zip(self._shelves, (True, False), strict=True):
            added = True
            while added:
                spare = (self._shape.patches - rows) * self._shape.tokens // self._shape.patches
                room = min(tokens, spare) if has_media else tokens
                added = any(map(add, itertools.islice(shelves.fitting(room), _TRIES)))
        return pack


class _Shelves:
    """Samples by length, so that the longest below a bound are found quickly."""

    def __init__(self, lengths: list[int], packed: bytearray, included: list[bool]) -> None:
        self._packed = packed
        self._shelves: dict[int, list[int]] = {}
        # Reversed, so that the first sample is at the end of its shelf, from which it is taken.
        for index in range(len(lengths) - 1, -1, -1):
            if included[index]:
                self._shelves.setdefault(lengths[index], []).append(index)
        self._lengths = sorted(self._shelves)

    def fitting(self, room: int) -> Iterator[int]:
        """One sample of each length up to `room`, the longest first."""
        at = bisect.bisect_right(self._lengths, room)
        while at:
            at -= 1
            shelf = self._shelves[self._lengths[at]]
            while shelf and self._packed[shelf[-1]]:
                shelf.pop()
            if shelf:
                yield shelf[-1]
            else:
                del self._lengths[at]


def costs(packs: Sequence[Sequence[int] | np.ndarray], sizes: Sizes) -> np.ndarray:
    """Attention cost of each pack, the sum of the squared lengths: float64 [packs]."""
    counts = np.array([len(pack) for pack in packs])
    squares = sizes.tokens[np.concatenate(packs)].astype(np.float64) ** 2
    return np.add.reduceat(squares, np.cumsum(counts) - counts)


def level(cost: np.ndarray, batch: int, rng: np.random.Generator) -> np.ndarray:
    """An order of packs in which the packs of a batch have similar cost: int64 [packs].

    Args:
      cost: float64 [packs], a multiple of `batch` packs.
      batch: packs per batch.
      rng: shuffles the batches.
    """
    return rng.permutation(np.argsort(cost, kind="stable").reshape(-1, batch)).reshape(-1)


def unevenness(cost: np.ndarray, batch: int) -> float:
    """Max / mean pack cost of a batch, as a mean over batches: 1 is even.

    Args:
      cost: float64 [packs] in the order of training, a multiple of `batch` packs.
      batch: packs per batch.
    """
    rows = cost.reshape(-1, batch)
    return float((rows.max(1) / rows.mean(1)).mean())
