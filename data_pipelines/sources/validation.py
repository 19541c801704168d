"""Checks of data sets before use: consistent overrides, few faults, at least one sample."""

import pathlib
from collections.abc import Iterable, Sequence

from data_pipelines.annotation_error import AnnotationError
from data_pipelines.layout import LayoutRule
from data_pipelines.sources.mixture import DataSet


def check_overrides(
    mixture: str | pathlib.Path, data_sets: Iterable[DataSet], rule: LayoutRule
) -> None:
    """Checks the overrides of each data set against the other settings of the config.

    Raises:
      AnnotationError: a minimum exceeds its maximum.
    """
    for data_set in data_sets:
        try:
            rule.with_overrides(data_set.overrides)
        except ValueError as error:
            raise AnnotationError(f"{mixture}: data set {data_set.name}: {error}") from error


def check_faults(
    mixture: str | pathlib.Path,
    results: Iterable[tuple[DataSet, Sequence, Sequence[str]]],
    max_faults: int,
) -> list[str]:
    """Returns the messages of all faults, if they are few.

    Args:
      mixture: path of the mixture file, for messages.
      results: data sets, their samples, and a message for each unusable annotation.
      max_faults: how many faults are allowed, `data.max_bad_samples` of a config.

    Raises:
      AnnotationError: there are more faults, or a data set has no sample.
    """
    results = list(results)
    faults = [fault for *_, faults in results for fault in faults]
    if len(faults) > max_faults:
        raise AnnotationError(
            f"{len(faults):,} unusable annotations, but data.max_bad_samples allows"
            f" {max_faults:,}; the first: {faults[0]};"
            f" `ivx data check --mixture={mixture}` lists them all"
        )
    for data_set, samples, _ in results:
        if not len(samples):
            raise AnnotationError(f"{mixture}: data set {data_set.name} has no usable sample")
    return faults
