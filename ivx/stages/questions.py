"""The questions of each rollout with their videos, read ahead by Grain while a model answers.

    samples --(permuted by seed and epoch)--> places --> rollout k: `count` from k * count on

Of several hosts each reads a run of these places of its own. A question whose video cannot be read
gives its place to the next that the rollout would not have asked (of several hosts: the next of
every so many, so that no two take the same).
"""

import dataclasses
import functools
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
class _Part:
    """Of every `count` places in an order, `own` from `first` on."""

    order: Order
    count: int
    first: int
    own: int

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, place: int) -> Sample:
        rollout, within = divmod(place, self.own)
        return self.order[rollout * self.count + self.first + within]


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, _SHUFFLE, epoch]).permutation(size)


class Questions:
    """Reads the questions of rollouts.

    Args:
      samples: that end with an open question, each with one truth.
      rule: how they are laid out.
      count: questions of a rollout, over all hosts, a multiple of their shares; as many of this
        host's next are held in memory, read ahead.
      seed: of their order.
      options: threads, the limit of decoded patches that are kept, and the share of this host.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        rule: LayoutRule,
        count: int,
        seed: int,
        options: loader.LoaderOptions,
    ):
        self._order, self._count = Order(samples, seed), count
        self._host, self._hosts = options.process_index, options.process_count
        self._own = count // self._hosts
        self._read = _Read(rule, FrameCache(options.cache_bytes))
        self._options = grain.ReadOptions(
            num_threads=options.threads, prefetch_buffer_size=self._own
        )
        self._ahead: Iterator[Question | Skipped] = iter(())
        self._number = -1  # of the rollout that `_ahead` has come to

    @functools.cached_property
    def families(self) -> list[str]:
        """Of all samples, sorted."""
        return sorted({sample.truths[-1]["family"] for sample in self._order.samples})

    def of(self, number: int) -> tuple[list[Question], list[Skipped]]:
        """This host's questions of rollout `number`, and why others were passed over.

        Raises:
          UserError: no video can be read.
        """
        if number != self._number:
            part = _Part(self._order, self._count, self._host * self._own, self._own)
            places = grain.MapDataset.source(part)[number * self._own :]
            self._ahead = iter(places.map(self._read).to_iter_dataset(self._options))
        self._number = number + 1
        read = [next(self._ahead) for _ in range(self._own)]
        found = [one for one in read if isinstance(one, Question)]
        skipped = [one for one in read if isinstance(one, Skipped)]
        place = (number + 1) * self._count + self._host
        while len(found) < self._own:
            # One that can be read comes once an epoch.
            if not found and len(skipped) > self._hosts * len(self._order.samples):
                raise UserError(
                    f"none of {len(self._order.samples)} videos can be read; the last:"
                    f" {skipped[-1]}"
                )
            one = self._read(self._order[place])
            (found if isinstance(one, Question) else skipped).append(one)
            place += self._hosts
        return found, skipped


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
