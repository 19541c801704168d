"""The plan of a run: which samples make which pack, known before the first frame is decoded.

    epoch e:  every data set gives its samples as often as its sample_ratio says
              (`sources.repeats`); all are shuffled together by (seed, e), packed (`filling`) and
              cut into batches, of packs that cost alike or at random; what is left of a batch is
              packed again with the next epoch
    batch i:  packs [i * batch, (i + 1) * batch) of the epochs' packs in a row;
              process p of n takes every n-th

The plan depends on the data, the packs of a batch and the seed alone, never on the number of
processes, workers or threads; the position of a run in it is one number, the batch index.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipelines import filling, packing, sources
from data_pipelines.layout import LayoutRule
from data_pipelines.media_error import MediaError
from ivx.text.chat_template import TemplateError

_SHUFFLE, _LEVEL = 1, 2


@dataclasses.dataclass(frozen=True)
class Measured:
    """Samples that fit, and what was left out.

    Attributes:
      samples: that fit.
      sizes: of them.
      dropped: a sentence for each that was left out.
      dropped_tokens: of those that were laid out and did not fit, or bear no loss.
    """

    samples: Sequence[sources.Sample]
    sizes: filling.Sizes
    dropped: list[str]
    dropped_tokens: int = 0


def measure(
    samples: Sequence[sources.Sample], rule: LayoutRule, shape: packing.PackShape
) -> Measured:
    """Works out the size of every sample from its annotation; media without sizes are probed."""
    kept, sizes, dropped, tokens = [], [], [], 0
    for sample in samples:
        try:
            # From here on a video or image is what it was when the plan was made.
            videos, images = (
                tuple(dataclasses.replace(ref, info=ref.resolved(rule.limits)) for ref in refs)
                for refs in (sample.videos, sample.images)
            )
            sample = dataclasses.replace(sample, videos=videos, images=images)
            layout = rule(sample)
        except (MediaError, TemplateError, ValueError) as error:
            dropped.append(f"sample {sample.id}: {error}")
            continue
        size = packing.size_of(layout)
        reason = packing.misfit(size, shape)
        if reason or not layout.trained.any():
            dropped.append(f"sample {sample.id}: {reason or 'no text to train on'}")
            tokens += size.tokens
            continue
        kept.append(sample)
        sizes.append(size)
    return Measured(kept, filling.Sizes.of(sizes), dropped, tokens)


@dataclasses.dataclass(frozen=True)
class Member:
    """A data set of the mixture, measured."""

    measured: Measured
    sample_ratio: float


class Packs(Sequence):
    """Packs in the order of training, each read as a tuple of samples.

    Args:
      members: the samples of each data set.
      ids: int64 [n], samples by their number among all data sets, pack after pack.
      bounds: int64 [packs + 1], pack k has the ids from bounds[k] to bounds[k + 1].
    """

    def __init__(
        self, members: Sequence[Sequence[sources.Sample]], ids: np.ndarray, bounds: np.ndarray
    ):
        self._members, self._ids, self._bounds = members, ids, bounds
        self._firsts = _firsts(members)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, number: int) -> tuple[sources.Sample, ...]:
        ids = self._ids[self._bounds[number] : self._bounds[number + 1]]
        owners = np.searchsorted(self._firsts, ids, side="right") - 1
        places = ids - self._firsts[owners]
        return tuple(
            self._members[m][i] for m, i in zip(owners.tolist(), places.tolist(), strict=True)
        )


@dataclasses.dataclass(frozen=True)
class Plan:
    """The packs of a run, and how full and even they are.

    Attributes:
      packs: as many as were asked for.
      token_fill: share of token places that hold a token; the rest is padding.
      patch_fill: share of patch places that hold a patch.
      unevenness: attention cost of the dearest pack of a batch over the mean, mean over batches.
      epochs: rounds over the mixture that the packs come from, the last perhaps begun only.
    """

    packs: Packs
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
    """Plans `count` packs, a whole number of batches, over as many epochs as they need.

    With `level` the packs of a batch cost alike, so that hosts do not wait for each other; without,
    they are taken at random, so that every batch has its share of each kind.

    Raises:
      AnnotationError: no sample is left to train on.
    """
    if not any(len(member.measured.sizes) for member in members):
        raise sources.AnnotationError("no sample of the training data fits; see the reasons above")
    if not any(len(_epoch(member)) for member in members):
        raise sources.AnnotationError("by its sample_ratio, an epoch has no sample; raise it")
    sizes = filling.Sizes.join([member.measured.sizes for member in members])
    packs, epoch, carried = [], 0, np.zeros(0, np.int64)
    while len(packs) < count:
        drawn = np.concatenate([carried, draw(members, seed, epoch)])
        rng = np.random.default_rng([seed, _LEVEL, epoch])
        whole, carried = _batches(drawn, len(carried), sizes, shape, batch, level, rng)
        packs += whole
        epoch += 1
    packs = packs[:count]
    ids = np.concatenate(packs)
    cost = filling.costs(packs, sizes)
    return Plan(
        Packs(
            [member.measured.samples for member in members],
            ids,
            np.cumsum([0] + [len(pack) for pack in packs]),
        ),
        token_fill=float(sizes.tokens[ids].sum() / (count * shape.tokens)),
        patch_fill=float(sizes.patches()[ids].sum() / (count * shape.patches)),
        unevenness=filling.unevenness(cost, batch),
        epochs=epoch,
    )


def _batches(
    drawn: np.ndarray,
    carried: int,
    sizes: filling.Sizes,
    shape: packing.PackShape,
    batch: int,
    level: bool,
    rng: np.random.Generator,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Whole batches of packs, and the samples that are left for the next epoch.

    At least one pack is left, since the last to be filled is seldom full. The fullest stay, but
    those with one of the first `carried` samples before all others, so that none waits for ever.
    """
    own = sizes.take(drawn)
    packs = filling.fill(own, shape)
    packs.sort(key=lambda pack: (min(pack) >= carried, -own.tokens[pack].sum()))
    count = (len(packs) - 1) // batch * batch
    left = np.sort(np.array([i for pack in packs[count:] for i in pack], np.int64))
    whole = packs[:count]
    if whole:
        order = (
            filling.level(filling.costs(whole, own), batch, rng)
            if level
            else rng.permutation(count)
        )
        whole = [whole[k] for k in order]
    return [drawn[pack] for pack in whole], drawn[left]


def draw(members: Sequence[Member], seed: int, epoch: int) -> np.ndarray:
    """Samples of one epoch in a random order, by their number among all data sets: int64 [n]."""
    firsts = _firsts([member.measured.sizes for member in members])
    drawn = np.concatenate(
        [first + _epoch(member) for first, member in zip(firsts, members, strict=True)]
    )
    return drawn[np.random.default_rng([seed, _SHUFFLE, epoch]).permutation(len(drawn))]


def _epoch(member: Member) -> np.ndarray:
    """Samples of a data set that an epoch takes, by their numbers: int64 [n]."""
    return sources.repeats(len(member.measured.sizes), member.sample_ratio)


def _firsts(parts: Sequence[Sequence]) -> np.ndarray:
    """Number of the first item of each part when all are counted through: int64 [parts]."""
    return np.cumsum([0] + [len(part) for part in parts])[:-1]
