"""From a data set to its samples, and the faults of those that are left out.

file --(entries)--> value --(format)--> annotations --(messages)--> samples
"""

import dataclasses
import hashlib
import json

from data_pipelines import formats
from data_pipelines.annotation_error import REPEATED, TEMPLATE, AnnotationError, Fault
from data_pipelines.sources import messages
from data_pipelines.sources.entries import Entry, entries
from data_pipelines.sources.mixture import DataSet
from data_pipelines.sources.sample import Sample
from ivx.text import chat_template


@dataclasses.dataclass(frozen=True)
class Found:
    """What a data set holds: samples in order, and a fault for each entry that gave none."""

    samples: list[Sample]
    faults: list[Fault]

    @property
    def sentences(self) -> list[str]:
        """Of the faults."""
        return [fault.sentence for fault in self.faults]


def read(data_set: DataSet, unique_ids: bool = False) -> Found:
    """Reads all of a data set, past whatever is wrong with single entries.

    Args:
      data_set: of a mixture.
      unique_ids: take an id that was there before for a fault, as an evaluation must, which tells
        predictions apart by it. Otherwise only a sample that is there twice is one, and samples
        that share an id get their place added to it.

    Raises:
      AnnotationError: a file cannot be read at all.
    """
    found, seen = Found([], []), {}
    convert = formats.FORMATS[data_set.format]
    for entry in entries(data_set):
        if isinstance(entry, Fault):
            found.faults.append(entry)
            continue
        try:
            for record in convert(entry.value, entry.where, data_set.fields, data_set.media_suffix):
                sample = _sample(record, entry, data_set)
                sample = _told_apart(sample, record, entry.where, seen, unique_ids)
                found.samples.append(sample)
        except AnnotationError as error:
            found.faults.append(Fault(entry.where, error.cause, str(error)))
    return found


def read_samples(data_set: DataSet) -> list[Sample]:
    """Reads all of a data set.

    Raises:
      AnnotationError: anything is wrong with it, or it holds no sample.
    """
    found = read(data_set, unique_ids=True)
    if found.faults:
        raise AnnotationError(found.faults[0].sentence, found.faults[0].cause)
    if not found.samples:
        raise AnnotationError(f"data set {data_set.name} holds no sample")
    return found.samples


def _sample(record: dict, entry: Entry, data_set: DataSet) -> Sample:
    sample = messages.sample(
        record, entry.where, data_set.media_root, entry.stored, data_set.overrides
    )
    try:
        # Words alone, so that what the template refuses has a line.
        chat_template.render(
            sample.messages,
            [""] * len(sample.videos),
            tools=sample.tools,
            images=[""] * len(sample.images),
        )
    except chat_template.TemplateError as error:
        raise AnnotationError(f"{entry.where}: {error}", TEMPLATE) from error
    return sample


def _told_apart(
    sample: Sample, record: dict, where: str, seen: dict[str, tuple[str, bytes]], unique: bool
) -> Sample:
    """The sample under an id of its own."""
    words = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).digest()
    first, same = seen.setdefault(sample.id, (where, words))
    if same == words and first == where:
        return sample
    if unique or same == words:
        raise AnnotationError(
            f"{where}: the id {sample.id} is that of {first}, "
            + ("which is the same sample" if same == words else "too; give each one of its own"),
            REPEATED,
        )
    return dataclasses.replace(sample, id=f"{sample.id} ({where})")
