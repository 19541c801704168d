"""What must hold before data sets are used: bounds that do not cross, few faults, some samples."""

import pathlib
from collections.abc import Iterable, Sequence

from data_pipelines.annotation_error import AnnotationError
from data_pipelines.layout import LayoutRule
from data_pipelines.sources.mixture import DataSet


def check_bounds(
    mixture: str | pathlib.Path, data_sets: Iterable[DataSet], rule: LayoutRule
) -> None:
    """Bounds of a data set may cross those of the config.

    Raises:
      AnnotationError: they do.
    """
    for one in data_sets:
        try:
            rule.under(one.overrides)
        except ValueError as error:
            raise AnnotationError(f"{mixture}: data set {one.name}: {error}") from error


def check_found(
    mixture: str | pathlib.Path,
    found: Iterable[tuple[DataSet, Sequence, Sequence[str]]],
    most: int,
) -> list[str]:
    """The sentences of all faults, if there are few.

    Args:
      mixture: the file, for messages.
      found: data sets, their samples, and a sentence for each annotation that is none.
      most: faults that are allowed, `data.max_bad_samples` of a config.

    Raises:
      AnnotationError: there are more, or a data set has no sample.
    """
    found = list(found)
    faults = [fault for *_, own in found for fault in own]
    if len(faults) > most:
        raise AnnotationError(
            f"{len(faults):,} unusable annotations, allowed are {most:,} by data.max_bad_samples;"
            f" the first: {faults[0]}; `ivx data check --mixture={mixture}` lists them all"
        )
    for one, samples, _ in found:
        if not len(samples):
            raise AnnotationError(f"{mixture}: data set {one.name} holds no usable sample")
    return faults
