"""Statistics of a data set before a long run: its contents, lengths of samples, and faults.

Decodes nothing: sizes of media come from annotations, or else from the headers of files.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from data_pipelines import media, packing
from data_pipelines.annotation_error import GONE, SPAN, TEMPLATE, UNREADABLE, Fault
from data_pipelines.layout import LayoutRule
from data_pipelines.media_error import MediaError
from data_pipelines.sources.messages import truth_span_error
from data_pipelines.sources.mixture import DataSet, epoch_size
from data_pipelines.sources.reading import read
from data_pipelines.sources.sample import Sample
from ivx.text.chat_template import TemplateError


@dataclasses.dataclass(frozen=True)
class DatasetStatistics:
    """Contents of a data set.

    Attributes:
      name: of the data set.
      samples: count of usable samples.
      an_epoch: count of samples per epoch, by the sample_ratio.
      videos: count of videos in usable samples.
      images: count of images in usable samples.
      tokens: int64 [samples], tokens of each, including visual tokens.
      visual: int64 [samples], visual tokens of each.
      trained: int64 [samples], tokens of each that bear loss.
      faults: why the other samples are unusable.
      misfits: why usable samples fit into no pack, if `collect` got its shape.
    """

    name: str
    samples: int
    an_epoch: int
    videos: int
    images: int
    tokens: np.ndarray
    visual: np.ndarray
    trained: np.ndarray
    faults: list[Fault]
    misfits: list[str]

    def spread(self, counts: np.ndarray) -> dict[str, int]:
        """Minimum, median, 95th percentile, maximum and sum of counts per sample."""
        names = ("min", "median", "p95", "max", "sum")
        if not len(counts):
            return dict.fromkeys(names, 0)
        percentiles = np.percentile(counts, [0, 50, 95, 100], method="higher")
        return dict(zip(names, map(int, (*percentiles, counts.sum())), strict=True))


def collect(
    data_set: DataSet,
    rule: LayoutRule,
    tick: Callable[[int], Any] = lambda count: None,
    shape: packing.PackShape | None = None,
) -> DatasetStatistics:
    """Reads and lays out all samples of a data set.

    Args:
      data_set: one entry of a mixture.
      rule: how samples are laid out.
      tick: called with 1 for every sample, to show progress.
      shape: capacity of a pack, to find the samples that training would leave out.

    Raises:
      AnnotationError: a file cannot be read at all.
    """
    result = read(data_set)
    faults, counts, videos, images = list(result.faults), [], 0, 0
    misfits = []
    for sample in result.samples:
        tick(1)
        sample_faults = list(_media_faults(sample))
        if not sample_faults:
            try:
                layout = rule.lay_out(sample)
            except (MediaError, TemplateError, ValueError) as error:
                cause = TEMPLATE if isinstance(error, TemplateError) else UNREADABLE
                sample_faults = [Fault(sample.where, cause, f"{sample.where}: {error}")]
        if sample_faults:
            faults += sample_faults[:1]
            continue
        if shape and (reason := packing.misfit(packing.size_of(layout), shape)):
            misfits.append(f"{sample.where}: {reason}")
        counts.append((len(layout.tokens), layout.is_visual.sum(), layout.trained.sum()))
        videos, images = videos + len(sample.videos), images + len(sample.images)
    tokens, visual, trained = np.array(counts, np.int64).reshape(-1, 3).T
    count = len(tokens)
    per_epoch = epoch_size(count, data_set.sample_ratio)
    return DatasetStatistics(
        data_set.name, count, per_epoch, videos, images, tokens, visual, trained, faults, misfits
    )


def _media_faults(sample: Sample) -> Iterator[Fault]:
    """Missing or unreadable media, and truth spans outside of the video."""
    where = sample.where
    try:
        for ref in (*sample.videos, *sample.images):
            if not media.exists(ref.path):
                yield Fault(where, GONE, f"{where}: {ref.path}: no such file")
                return
        resolved = tuple(
            dataclasses.replace(video, info=video.resolved()) for video in sample.videos
        )
        for image in sample.images:
            image.resolved()
    except MediaError as error:
        yield Fault(where, UNREADABLE, f"{where}: {error}")
        return
    span_error = truth_span_error(dataclasses.replace(sample, videos=resolved))
    if span_error:
        yield Fault(where, SPAN, f"{where}: {span_error}")
