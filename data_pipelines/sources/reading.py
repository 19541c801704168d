"""Reads a data set: its samples, and a fault for each entry that is skipped.

file --(entries)--> value --(format)--> annotations --(messages)--> samples
"""

import dataclasses
import hashlib
import json
from typing import Any

from data_pipelines import formats
from data_pipelines.annotation_error import REPEATED, TEMPLATE, AnnotationError, Fault
from data_pipelines.sources import messages
from data_pipelines.sources.entries import Entry, entries
from data_pipelines.sources.mixture import DataSet
from data_pipelines.sources.sample import Sample
from ivx.text import chat_template


@dataclasses.dataclass(frozen=True)
class ReadResult:
    """The samples of a data set in order, and a fault for each unusable entry."""

    samples: list[Sample]
    faults: list[Fault]

    @property
    def sentences(self) -> list[str]:
        """The messages of the faults."""
        return [fault.sentence for fault in self.faults]


def read(data_set: DataSet, unique_ids: bool = False) -> ReadResult:
    """Reads a data set, and skips entries that are unusable.

    Args:
      data_set: one entry of a mixture.
      unique_ids: count every repeated id as a fault, as an evaluation must, which identifies
        predictions by id. Otherwise only a repeated sample is a fault; different samples with the
        same id get their file and line appended to it.

    Raises:
      AnnotationError: a file cannot be read at all.
    """
    result, seen = ReadResult([], []), {}
    convert = formats.FORMATS[data_set.format]
    for entry in entries(data_set):
        if isinstance(entry, Fault):
            result.faults.append(entry)
            continue
        try:
            for record in convert(entry.value, entry.where, data_set.fields, data_set.media_suffix):
                sample = _sample(record, entry, data_set)
                sample = _with_unique_id(sample, record, entry.where, seen, unique_ids)
                result.samples.append(sample)
        except AnnotationError as error:
            result.faults.append(Fault(entry.where, error.cause, str(error)))
    return result


def read_samples(data_set: DataSet) -> list[Sample]:
    """Reads a data set that must be free of faults.

    Raises:
      AnnotationError: an entry is unusable, or there is no sample.
    """
    result = read(data_set, unique_ids=True)
    if result.faults:
        raise AnnotationError(result.faults[0].sentence, result.faults[0].cause)
    if not result.samples:
        raise AnnotationError(f"data set {data_set.name} has no sample")
    return result.samples


def _sample(record: Any, entry: Entry, data_set: DataSet) -> Sample:
    sample = messages.parse_sample(
        record, entry.where, data_set.media_root, entry.stored, data_set.overrides
    )
    try:
        # Rendered with empty media, so that errors of the template are reported with the line.
        chat_template.render(
            sample.messages,
            [""] * len(sample.videos),
            tools=sample.tools,
            images=[""] * len(sample.images),
        )
    except chat_template.TemplateError as error:
        raise AnnotationError(f"{entry.where}: {error}", TEMPLATE) from error
    return sample


def _with_unique_id(
    sample: Sample, record: dict, where: str, seen: dict[str, tuple[str, bytes]], unique: bool
) -> Sample:
    """The sample with an id that no earlier sample has."""
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).digest()
    first_where, first_digest = seen.setdefault(sample.id, (where, digest))
    if first_digest == digest and first_where == where:
        return sample
    if unique or first_digest == digest:
        raise AnnotationError(
            f"{where}: repeats the id {sample.id} of {first_where}"
            + (
                " and is the same sample"
                if first_digest == digest
                else "; give every sample an id of its own"
            ),
            REPEATED,
        )
    return dataclasses.replace(sample, id=f"{sample.id} ({where})")
