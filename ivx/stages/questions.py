"""The questions of each rollout with their videos, read ahead by Grain while a model answers.

    samples --(permuted by seed and epoch)--> places --> rollout k: `count` from k * count on

Of several hosts each reads the rows that its devices hold. A question whose video cannot be read
gives its place to the next that the rollout would not have asked (of several hosts: the next of
every so many, so that no two take the same). What one host cannot read, hosts with the same rows
leave out too.
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
from data_pipelines.media_error import MediaError, Skipped
from data_pipelines.sources import Sample
from ivx.errors import UserError
from ivx.parallel import over_hosts
from ivx.parallel.shares import ALONE, PackShare

_SHUFFLE = 2


@dataclasses.dataclass(frozen=True)
class Question:
    """A prompt that is ready to be answered."""

    sample: Sample
    layout: Layout
    pixels: Pixels


@dataclasses.dataclass(frozen=True)
class Order:
    """The sample at every place: epoch after epoch, each in an order of its own, without an end."""

    samples: Sequence[Sample]
    seed: int

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, place: int) -> Sample:
        epoch, within = divmod(place, len(self.samples))
        return self.samples[_permutation(self.seed, epoch, len(self.samples))[within]]


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Of every `count` places in an order some rows, one rollout after the other."""

    order: Order
    count: int
    rows: Sequence[int]

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, number: int) -> Sample:
        return self.order[self.place(number)]

    def place(self, number: int) -> int:
        """Where the sample `number` of these stands in the order."""
        rollout, row = divmod(number, len(self.rows))
        return rollout * self.count + self.rows[row]


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, _SHUFFLE, epoch]).permutation(size)


class Questions:
    """Reads the questions of rollouts.

    Args:
      samples: that end with an open question, each with one truth.
      rule: how they are laid out.
      count: questions of a rollout, over all hosts, as many for each place of packs; as many of
        this host's next are held in memory, read ahead.
      seed: of their order.
      options: threads, and the limit of decoded patches that are kept.
      share: of this host.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        rule: LayoutRule,
        count: int,
        seed: int,
        options: loader.LoaderOptions,
        share: PackShare = ALONE,
    ):
        order, each = Order(samples, seed), count // (share.count * len(share.places))
        rows = [place * each + row for place in share.places for row in range(each)]
        self._mine, self._share = _Rows(order, count, rows), share
        self._read = _Read(rule, FrameCache(options.cache_bytes))
        self._options = grain.ReadOptions(options.threads, prefetch_buffer_size=len(rows))
        self._ahead: Iterator[Question | Skipped] = iter(())
        self._number = -1  # of the rollout that `_ahead` has come to

    @functools.cached_property
    def families(self) -> list[str]:
        """Of all samples, sorted."""
        return sorted({sample.truths[-1]["family"] for sample in self._mine.order.samples})

    def of(self, number: int) -> tuple[list[Question], list[Skipped]]:
        """This host's questions of rollout `number`, and why others were passed over.

        Raises:
          UserError: no video can be read.
        """
        own = len(self._mine.rows)
        if number != self._number:
            places = grain.MapDataset.source(self._mine)[number * own :]
            self._ahead = iter(places.map(self._read).to_iter_dataset(self._options))
        self._number = number + 1
        read = {self._mine.place(number * own + row): next(self._ahead) for row in range(own)}
        left_out: set[int] = set()
        while True:
            found, skipped = self._filled(number, read, left_out)
            agreed = self._agreed(set(skipped))
            [differs] = over_hosts.largest([agreed != skipped.keys()])
            if not differs:
                return found, list(skipped.values())
            left_out = agreed

    def _filled(
        self, number: int, read: dict[int, Question | Skipped], left_out: set[int]
    ) -> tuple[list[Question], dict[int, Skipped]]:
        """As many questions as this host asks, and what was passed over, by its place.

        Args:
          number: of the rollout.
          read: what stands at places that were read; more is added.
          left_out: places that are passed over though they can be read here.
        """
        own, samples = len(self._mine.rows), self._mine.order.samples
        ours = (self._mine.place(number * own + row) for row in range(own))
        after = (number + 1) * self._mine.count
        others = itertools.count(after + self._share.index, self._share.count)
        found, skipped = [], {}
        for place in itertools.chain(ours, others):
            if len(found) == own and place >= after:
                return found, skipped
            if place not in read:
                read[place] = self._read(self._mine.order[place])
            one = read[place]
            if isinstance(one, Question) and place in left_out:
                error = MediaError("another host with the same rows cannot read it", "elsewhere")
                one = Skipped.by(error, one.sample.id)
            if isinstance(one, Question):
                found.append(one)
                continue
            skipped[place] = one
            # Alone, one that can be read comes once an epoch; of several hosts' places as a rule.
            most = len(samples) * (1 if self._share.count == 1 else 4)
            if not found and len(skipped) > most:
                raise UserError(f"none of {len(samples)} videos can be read; the last: {one}")

    def _agreed(self, places: set[int]) -> set[int]:
        """Those that this host or one with the same rows left out; all hosts have to ask."""
        [most] = over_hosts.largest([len(places)])
        if not most:
            return places
        told = [self._share.index, *places, *[-1] * (most - len(places))]
        return {
            int(place)
            for index, *others in over_hosts.gathered(told).tolist()
            for place in others
            if index == self._share.index and place >= 0
        }


@dataclasses.dataclass(frozen=True)
class _Read:
    """Grain's map function: from a sample to a question, or to why it is none."""

    rule: LayoutRule
    cache: FrameCache

    def __call__(self, sample: Sample) -> Question | Skipped:
        try:
            layout = self.rule(sample, generate=True)
            return Question(sample, layout, self.cache.read(layout))
        except MediaError as error:
            return Skipped.by(error, sample.id)
