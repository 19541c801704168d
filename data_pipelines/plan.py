"""The plan of a run: which samples make which pack, known before the first frame is decoded.

    epoch e:  every data set gives its samples as often as its sample_ratio says
              (`sources.repeats`); all are shuffled together by (seed, e) and packed first-fit
    batch i:  packs [i * batch, (i + 1) * batch) of the epochs' packs in a row;
              process p of n takes every n-th

The plan depends on the data and the seed alone, never on the number of processes, workers or
threads; the position of a run in it is one number, the batch index.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipelines import packing, sources
from data_pipelines.layout import LayoutRule
from data_pipelines.media_error import MediaError
from ivx.text.chat_template import TemplateError

_SHUFFLE = 1


@dataclasses.dataclass(frozen=True)
class Measured:
    """Samples that fit, with their sizes, and a sentence for each that was left out."""

    samples: list[sources.Sample]
    sizes: list[packing.Size]
    dropped: list[str]


def measure(
    samples: Sequence[sources.Sample], rule: LayoutRule, shape: packing.PackShape
) -> Measured:
    """Works out the size of every sample from its annotation; media without sizes are probed."""
    measured = Measured([], [], [])
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
            measured.dropped.append(f"sample {sample.id}: {error}")
            continue
        size = packing.Size(len(layout.tokens), tuple(layout.slice_sizes))
        reason = packing.misfit(size, shape)
        if reason or not layout.trained.any():
            measured.dropped.append(f"sample {sample.id}: {reason or 'no text to train on'}")
            continue
        measured.samples.append(sample)
        measured.sizes.append(size)
    return measured


@dataclasses.dataclass(frozen=True)
class Member:
    """A data set of the mixture, measured."""

    measured: Measured
    sample_ratio: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """Packs in the order of training, each a tuple of samples, and how full they are.

    Attributes:
      packs: as many as were asked for.
      token_fill: share of token places that hold a token.
      patch_fill: share of patch places that hold a patch.
      epochs: rounds over the mixture that the packs come from, the last perhaps begun only.
    """

    packs: list[tuple[sources.Sample, ...]]
    token_fill: float
    patch_fill: float
    epochs: int


def make_plan(
    members: Sequence[Member], shape: packing.PackShape, count: int, open_packs: int, seed: int
) -> Plan:
    """Plans `count` packs, over as many epochs as they need.

    Raises:
      AnnotationError: no sample is left to train on.
    """
    if not any(member.measured.samples for member in members):
        raise sources.AnnotationError("no sample of the training data fits; see the reasons above")
    if not any(len(_epoch(member)) for member in members):
        raise sources.AnnotationError("by its sample_ratio, an epoch has no sample; raise it")
    packs, tokens, patches, epoch = [], 0, 0, 0
    while len(packs) < count:
        drawn = _draw(members, seed, epoch)
        sizes = [members[m].measured.sizes[i] for m, i in drawn]
        for pack in packing.first_fit(sizes, shape, open_packs)[: count - len(packs)]:
            packs.append(tuple(members[drawn[k][0]].measured.samples[drawn[k][1]] for k in pack))
            tokens += sum(sizes[k].tokens for k in pack)
            patches += sum(sum(sizes[k].slices) for k in pack)
        epoch += 1
    return Plan(packs, tokens / (count * shape.tokens), patches / (count * shape.patches), epoch)


def _draw(members: Sequence[Member], seed: int, epoch: int) -> list[tuple[int, int]]:
    """(member, sample) pairs of one epoch in training order."""
    drawn = [
        (number, int(position))
        for number, member in enumerate(members)
        for position in _epoch(member)
    ]
    order = np.random.default_rng([seed, _SHUFFLE, epoch]).permutation(len(drawn))
    return [drawn[i] for i in order]


def _epoch(member: Member) -> np.ndarray:
    """Samples of a data set that an epoch takes, by their numbers: int64 [n]."""
    return sources.repeats(len(member.measured.samples), member.sample_ratio)
