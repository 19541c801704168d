"""The plan of a run: which samples make which pack, decided before the first frame is decoded.

    epoch e:  every data set gives `sources.epoch_indices` of its samples, by its sample_ratio.
              The samples are shuffled together by (seed, e), packed (`bin_packing`) and cut into
              batches, of packs of similar cost or of random packs. Packs that fill no batch go
              back, and their samples are packed again in the next epoch.
    batch i:  packs [i * batch, (i + 1) * batch) of the concatenated epochs. Process p of n reads
              every n-th pack from p on.

The plan depends only on the data, the batch size and the seed, and not on the count of processes,
workers or threads. A run's position in the plan is one integer, the batch index.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipelines import bin_packing, packing, sources
from data_pipelines.layout import LayoutRule
from data_pipelines.media_error import MediaError
from ivx.text.chat_template import TemplateError
from ivx.text.printable import quoted

_SHUFFLE, _LEVEL = 1, 2


@dataclasses.dataclass(frozen=True)
class MeasuredSamples:
    """Samples that fit into a pack, with their sizes.

    Attributes:
      samples: the samples that fit.
      sizes: their sizes.
      dropped: a message for each sample that was left out.
      dropped_tokens: tokens of the samples that were laid out, but are too large or bear no loss.
    """

    samples: Sequence[sources.Sample]
    sizes: bin_packing.Sizes
    dropped: list[str]
    dropped_tokens: int = 0


def measure(
    samples: Sequence[sources.Sample], rule: LayoutRule, shape: packing.PackShape
) -> MeasuredSamples:
    """Computes the size of every sample from its annotation; probes media without sizes."""
    kept, sizes, dropped, dropped_tokens = [], [], [], 0
    for sample in samples:
        try:
            # The info is fixed here: a file that changes later raises an error when it is decoded.
            videos, images = (
                tuple(dataclasses.replace(ref, info=ref.resolved(rule.limits)) for ref in refs)
                for refs in (sample.videos, sample.images)
            )
            sample = dataclasses.replace(sample, videos=videos, images=images)
            layout = rule.lay_out(sample)
        except (MediaError, TemplateError, ValueError) as error:
            dropped.append(quoted(f"sample {sample.id}: {error}"))
            continue
        size = packing.size_of(layout)
        reason = packing.misfit(size, shape)
        if reason or not layout.trained.any():
            dropped.append(quoted(f"sample {sample.id}: {reason or 'no text to train on'}"))
            dropped_tokens += size.tokens
            continue
        kept.append(sample)
        sizes.append(size)
    return MeasuredSamples(kept, bin_packing.Sizes.of(sizes), dropped, dropped_tokens)


@dataclasses.dataclass(frozen=True)
class Member:
    """A data set of the mixture, with the sizes of its samples."""

    measured: MeasuredSamples
    sample_ratio: float


class Packs(Sequence):
    """Packs in the order of training, each a tuple of samples that is read when it is indexed.

    Args:
      members: the samples of each data set.
      ids: int64 [n], indices of samples in the concatenated data sets, pack after pack.
      bounds: int64 [packs + 1], pack k has the ids from bounds[k] to bounds[k + 1].
    """

    def __init__(
        self, members: Sequence[Sequence[sources.Sample]], ids: np.ndarray, bounds: np.ndarray
    ) -> None:
        self._members, self._ids, self._bounds = members, ids, bounds
        self._offsets = _offsets(members)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, index: int) -> tuple[sources.Sample, ...]:
        ids = self._ids[self._bounds[index] : self._bounds[index + 1]]
        members = np.searchsorted(self._offsets, ids, side="right") - 1
        indices = ids - self._offsets[members]
        return tuple(
            self._members[m][i] for m, i in zip(members.tolist(), indices.tolist(), strict=True)
        )


@dataclasses.dataclass(frozen=True)
class Plan:
    """The packs of a run, and how full and even they are.

    Attributes:
      packs: in the order of training.
      token_fill: share of token positions that hold a token; the rest is padding.
      patch_fill: share of patch rows that hold a patch.
      unevenness: max / mean attention cost of the packs of a batch, as a mean over batches.
      epochs: epochs that the packs come from; the last may be incomplete.
    """

    packs: Packs | Sequence
    token_fill: float
    patch_fill: float
    unevenness: float
    epochs: int


def make_plan(
    members: Sequence[Member],
    shape: packing.PackShape,
    count: int,
    batch: int,
    seed: int,
    level: bool = True,
) -> Plan:
    """Plans `count` packs over as many epochs as they need.

    Args:
      members: the data sets.
      shape: capacity of a pack.
      count: packs to plan, a multiple of `batch`.
      batch: packs per batch.
      seed: of the shuffles.
      level: put packs of similar cost into a batch, so that hosts do not wait for each other.
        Otherwise batches are random, so that each has its share of every kind of sample.

    Raises:
      AnnotationError: no sample is left to train on.
    """
    if not any(len(member.measured.sizes) for member in members):
        raise sources.AnnotationError(
            "no sample of the training data can be used; the reasons are above, one for each sample"
        )
    if not any(len(_epoch_indices(member)) for member in members):
        raise sources.AnnotationError(
            "an epoch has no samples; raise the sample_ratio of a data set in the mixture"
        )
    sizes = bin_packing.Sizes.join([member.measured.sizes for member in members])
    packs, epoch, carried = [], 0, np.zeros(0, np.int64)
    while len(packs) < count:
        ids = np.concatenate([carried, draw_epoch(members, seed, epoch)])
        rng = np.random.default_rng([seed, _LEVEL, epoch])
        complete, carried = _complete_batches(ids, len(carried), sizes, shape, batch, level, rng)
        packs += complete
        epoch += 1
    packs = packs[:count]
    ids = np.concatenate(packs)
    cost = bin_packing.costs(packs, sizes)
    return Plan(
        Packs(
            [member.measured.samples for member in members],
            ids,
            np.cumsum([0] + [len(pack) for pack in packs]),
        ),
        token_fill=float(sizes.tokens[ids].sum() / (count * shape.tokens)),
        patch_fill=float(sizes.patches()[ids].sum() / (count * shape.patches)),
        unevenness=bin_packing.unevenness(cost, batch),
        epochs=epoch,
    )


def _complete_batches(
    ids: np.ndarray,
    carried: int,
    sizes: bin_packing.Sizes,
    shape: packing.PackShape,
    batch: int,
    level: bool,
    rng: np.random.Generator,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Packs samples: the packs of complete batches, and the samples left for the next epoch.

    At least one pack is left over, since the last pack to be filled is seldom full. The fullest
    packs are kept. Packs with any of the first `carried` samples come before all others, so that
    no sample is carried over again and again.
    """
    epoch_sizes = sizes.take(ids)
    packs = bin_packing.fill(epoch_sizes, shape)
    packs.sort(key=lambda pack: (min(pack) >= carried, -epoch_sizes.tokens[pack].sum()))
    count = (len(packs) - 1) // batch * batch
    left = np.sort(np.array([i for pack in packs[count:] for i in pack], np.int64))
    complete = packs[:count]
    if complete:
        order = (
            bin_packing.level(bin_packing.costs(complete, epoch_sizes), batch, rng)
            if level
            else rng.permutation(count)
        )
        complete = [complete[k] for k in order]
    return [ids[pack] for pack in complete], ids[left]


def draw_epoch(members: Sequence[Member], seed: int, epoch: int) -> np.ndarray:
    """Samples of one epoch in a random order: int64 [n], indices in the concatenated data sets."""
    offsets = _offsets([member.measured.sizes for member in members])
    ids = np.concatenate(
        [offset + _epoch_indices(member) for offset, member in zip(offsets, members, strict=True)]
    )
    return ids[np.random.default_rng([seed, _SHUFFLE, epoch]).permutation(len(ids))]


def _epoch_indices(member: Member) -> np.ndarray:
    """Indices of the samples that an epoch takes from a data set: int64 [n]."""
    return sources.epoch_indices(len(member.measured.sizes), member.sample_ratio)


def _offsets(parts: Sequence) -> np.ndarray:
    """Index of the first item of each part in their concatenation: int64 [parts]."""
    return np.cumsum([0] + [len(part) for part in parts])[:-1]
