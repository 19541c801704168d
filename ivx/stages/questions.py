"""The questions of each rollout, with their videos, prefetched by Grain while the model answers.

    samples --(permuted by seed and epoch)--> order --> rollout k: `count` questions from k * count

With several hosts, each reads the rows of a rollout that its devices hold. A question whose video
cannot be read is replaced by the next one that this rollout does not use; hosts take replacements
in turn, so no two take the same. Hosts that share rows skip a question if any of them cannot read
it.
"""

import dataclasses
import functools
import itertools
import sys
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from data_pipelines import loader
from data_pipelines.frame_cache import FrameCache, Pixels
from data_pipelines.layout import Layout, LayoutRule
from data_pipelines.media_error import MediaError, SkippedSample
from data_pipelines.sources import Sample
from ivx.errors import UserError
from ivx.parallel import across_hosts
from ivx.parallel.batches import FULL_BATCH, PackShare

_SHUFFLE = 2


@dataclasses.dataclass(frozen=True)
class Question:
    """A prompt that is ready to be answered."""

    sample: Sample
    layout: Layout
    pixels: Pixels


@dataclasses.dataclass(frozen=True)
class Order:
    """An endless sequence of the samples: one permutation per epoch."""

    samples: Sequence[Sample]
    seed: int

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> Sample:
        epoch, within = divmod(index, len(self.samples))
        return self.samples[_permutation(self.seed, epoch, len(self.samples))[within]]


@dataclasses.dataclass(frozen=True)
class _Rows:
    """This host's part of an order: some rows of every `count` samples."""

    order: Order
    count: int
    rows: Sequence[int]

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, number: int) -> Sample:
        return self.order[self.index(number)]

    def index(self, number: int) -> int:
        """Index in the order of this host's sample `number`."""
        rollout, row = divmod(number, len(self.rows))
        return rollout * self.count + self.rows[row]


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, _SHUFFLE, epoch]).permutation(size)


class Questions:
    """Reads the questions of rollouts.

    Args:
      samples: each ends with an open question and has one truth.
      rule: lays out samples.
      count: questions per rollout over all hosts, a multiple of the batch positions of the mesh. As
        many as this host's share are prefetched into memory.
      seed: of the order.
      options: number of threads, and the cache limit of decoded patches.
      share: of this host.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        rule: LayoutRule,
        count: int,
        seed: int,
        options: loader.LoaderOptions,
        share: PackShare = FULL_BATCH,
    ) -> None:
        order, each = Order(samples, seed), count // (share.count * len(share.positions))
        rows = [place * each + row for place in share.positions for row in range(each)]
        self._host_rows, self._share = _Rows(order, count, rows), share
        self._read = _Read(rule, FrameCache(options.cache_bytes))
        self._options = grain.ReadOptions(options.threads, prefetch_buffer_size=len(rows))
        self._prefetched: Iterator[Question | SkippedSample] = iter(())
        self._number = -1  # the rollout at which `_prefetched` stands

    @functools.cached_property
    def families(self) -> list[str]:
        """Question families of all samples, sorted."""
        return sorted({sample.truths[-1]["family"] for sample in self._host_rows.order.samples})

    def rollout(self, number: int) -> tuple[list[Question], list[SkippedSample]]:
        """This host's questions of rollout `number`, and why others were skipped.

        Raises:
          UserError: no video can be read.
        """
        count = len(self._host_rows.rows)
        if number != self._number:
            samples = grain.MapDataset.source(self._host_rows)[number * count :]
            self._prefetched = iter(samples.map(self._read).to_iter_dataset(self._options))
        self._number = number + 1
        read = {
            self._host_rows.index(number * count + row): next(self._prefetched)
            for row in range(count)
        }
        excluded: set[int] = set()
        while True:
            questions, skipped = self._fill(number, read, excluded)
            agreed = self._agree_on_skipped(set(skipped))
            [differs] = across_hosts.largest([agreed != skipped.keys()])
            if not differs:
                return questions, list(skipped.values())
            excluded = agreed

    def _fill(
        self, number: int, read: dict[int, Question | SkippedSample], excluded: set[int]
    ) -> tuple[list[Question], dict[int, SkippedSample]]:
        """This host's questions of a rollout, and the skipped ones by index.

        Args:
          number: of the rollout.
          read: index -> question read so far; extended in place.
          excluded: indices to skip even if they can be read here.
        """
        count, samples = len(self._host_rows.rows), self._host_rows.order.samples
        regular = (self._host_rows.index(number * count + row) for row in range(count))
        end = (number + 1) * self._host_rows.count
        replacements = itertools.count(end + self._share.index, self._share.count)
        questions, skipped = [], {}
        for index in itertools.chain(regular, replacements):
            if len(questions) == count and index >= end:
                return questions, skipped
            if index not in read:
                read[index] = self._read(self._host_rows.order[index])
            question = read[index]
            if isinstance(question, Question) and index in excluded:
                error = MediaError("another host with the same rows cannot read it", "elsewhere")
                question = SkippedSample.from_error(error, question.sample.id)
            if isinstance(question, Question):
                questions.append(question)
                continue
            skipped[index] = question
            # A single host meets every sample once per epoch; one of several usually does within a
            # few epochs.
            most = len(samples) * (1 if self._share.count == 1 else 4)
            if not questions and len(skipped) > most:
                raise UserError(
                    f"none of {len(samples)} videos can be read; the last error: {question}"
                )

    def _agree_on_skipped(self, indices: set[int]) -> set[int]:
        """Union of the skipped indices over hosts with the same rows; a collective call."""
        [most] = across_hosts.largest([len(indices)])
        if not most:
            return indices
        message = [self._share.index, *indices, *[-1] * (most - len(indices))]
        return {
            int(index)
            for share, *others in across_hosts.gathered(message).tolist()
            for index in others
            if share == self._share.index and index >= 0
        }


@dataclasses.dataclass(frozen=True)
class _Read:
    """Grain's map function: from a sample to a question, or to the reason why it is skipped."""

    rule: LayoutRule
    cache: FrameCache

    def __call__(self, sample: Sample) -> Question | SkippedSample:
        try:
            layout = self.rule.lay_out(sample, generate=True)
            return Question(sample, layout, self.cache.read(layout))
        except MediaError as error:
            return SkippedSample.from_error(error, sample.id)
