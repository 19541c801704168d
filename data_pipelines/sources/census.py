"""A data set gone through before a long run: what is in it, how long samples are, what is wrong.

Nothing is decoded: sizes come from annotations, or else from the headers of files.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from data_pipelines import media
from data_pipelines.annotation_error import GONE, SPAN, TEMPLATE, UNREADABLE, Fault
from data_pipelines.layout import LayoutRule
from data_pipelines.media_error import MediaError
from data_pipelines.sources.messages import span_outside
from data_pipelines.sources.mixture import DataSet, repeats
from data_pipelines.sources.reading import read
from data_pipelines.sources.sample import Sample
from ivx.text.chat_template import TemplateError


@dataclasses.dataclass(frozen=True)
class Census:
    """What a data set holds.

    Attributes:
      name: of the data set.
      samples: those that can be used.
      an_epoch: those that an epoch takes, by the sample_ratio.
      videos: of the samples.
      images: likewise.
      tokens: int64 [samples], of each, visual ones among them.
      visual: int64 [samples], visual tokens of each.
      trained: int64 [samples], tokens of each that bear loss.
      faults: of those that cannot be used.
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

    def spread(self, counts: np.ndarray) -> dict[str, int]:
        """Least, middle, 95th percentile, most and sum of counts of samples."""
        if not len(counts):
            return dict.fromkeys(("min", "median", "p95", "max", "sum"), 0)
        low, middle, high, most = np.percentile(counts, [0, 50, 95, 100], method="higher")
        found = (low, middle, high, most, counts.sum())
        return dict(zip(("min", "median", "p95", "max", "sum"), map(int, found), strict=True))


def take(
    data_set: DataSet, rule: LayoutRule, tick: Callable[[int], None] = lambda count: None
) -> Census:
    """Goes through a data set.

    Args:
      data_set: of a mixture.
      rule: how its samples would be laid out.
      tick: called with 1 for each sample, to show that it goes on.

    Raises:
      AnnotationError: a file of it cannot be read at all.
    """
    found = read(data_set)
    faults, counts, videos, images = list(found.faults), [], 0, 0
    for sample in found.samples:
        tick(1)
        wrong = list(_wrong(sample))
        if not wrong:
            try:
                layout = rule(sample)
            except (MediaError, TemplateError, ValueError) as error:
                cause = TEMPLATE if isinstance(error, TemplateError) else UNREADABLE
                wrong = [Fault(sample.where, cause, f"{sample.where}: {error}")]
        if wrong:
            faults += wrong[:1]
            continue
        counts.append((len(layout.tokens), layout.is_visual.sum(), layout.trained.sum()))
        videos, images = videos + len(sample.videos), images + len(sample.images)
    tokens, visual, trained = np.array(counts, np.int64).reshape(-1, 3).T
    count = len(tokens)
    epoch = len(repeats(count, data_set.sample_ratio))
    return Census(data_set.name, count, epoch, videos, images, tokens, visual, trained, faults)


def _wrong(sample: Sample) -> Iterator[Fault]:
    """Media that are missing or unreadable, and true spans outside of them."""
    where = sample.where
    try:
        for ref in (*sample.videos, *sample.images):
            if not media.is_there(ref.path):
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
    outside = span_outside(dataclasses.replace(sample, videos=resolved))
    if outside:
        yield Fault(where, SPAN, f"{where}: {outside}")
