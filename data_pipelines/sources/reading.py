"""Reads a data set: its samples, and a fault for each entry that is skipped.

file --(entries)--> value --(format)--> annotations --(messages)--> samples
"""

import dataclasses
import hashlib
import json
from typing import Any

from data_pipelines import formats
from data_pipelines.annotation_error import REPEATED, TEMPLATE, VALUE, AnnotationError, Fault
from data_pipelines.data_record import FileDigests, FileRecord
from data_pipelines.sources import messages
from data_pipelines.sources.entries import Entry, entries
from data_pipelines.sources.mixture import DataSet
from data_pipelines.sources.sample import Sample
from ivx.text import chat_template

UNFORESEEN = "cannot be read as an annotation"


@dataclasses.dataclass(frozen=True)
class ReadResult:
    """The samples of a data set in order, and a fault for each unusable entry.

    Attributes:
      samples: in order.
      faults: one for each unusable entry.
      files: what the files of annotations were.
    """

    samples: list[Sample]
    faults: list[Fault]
    files: tuple[FileRecord, ...] = ()

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
    digests = FileDigests([data_set.tfds or str(file) for file in data_set.annotations])
    for entry in entries(data_set):
        digests.add(entry.where, entry.cause if isinstance(entry, Fault) else entry.value)
        if isinstance(entry, Fault):
            result.faults.append(entry)
            continue
        for record in _records(entry, data_set):
            try:
                if isinstance(record, Exception):
                    raise record
                sample = _sample(record, entry, data_set)
                sample = _with_unique_id(sample, record, entry.where, seen, unique_ids)
                result.samples.append(sample)
            except (NameError, ImportError):  # a fault of ivx, not of the annotation
                raise
            except Exception as error:  # an annotation never costs another one
                result.faults.append(_fault(entry.where, error))
    return dataclasses.replace(result, files=digests.records())


def read_samples(data_set: DataSet) -> list[Sample]:
    """Reads a data set that must be free of faults.

    Raises:
      AnnotationError: an entry is unusable, or there is no sample.
    """
    return read_faultless(data_set).samples


def read_faultless(data_set: DataSet) -> ReadResult:
    """As `read_samples`, with what the files were.

    Raises:
      AnnotationError: as `read_samples`.
    """
    result = read(data_set, unique_ids=True)
    if result.faults:
        raise AnnotationError(result.faults[0].sentence, result.faults[0].cause)
    if not result.samples:
        raise AnnotationError(f"data set {data_set.name} has no sample")
    return result


def _records(entry: Entry, data_set: DataSet) -> list[Any]:
    """The annotations of an entry; an error stands for each one that is unusable."""
    convert = formats.FORMATS[data_set.format]
    try:
        return convert(entry.value, entry.where, data_set.fields, data_set.media_suffix)
    except (NameError, ImportError):
        raise
    except Exception as error:  # as in `read`
        return [error]


def _fault(where: str, error: Exception) -> Fault:
    if isinstance(error, AnnotationError):
        return Fault.from_error(where, error)
    # No check foresaw this annotation.
    return Fault(where, VALUE, f"{where}: {UNFORESEEN} ({type(error).__name__}: {error})")


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
    # `default`: rows of tables may hold values that JSON lacks, such as dates, in ignored keys.
    text = json.dumps(record, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).digest()
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
