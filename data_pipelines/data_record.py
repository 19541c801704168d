"""What a data set was when a run read it, so that a restart notices whether it has changed.

    {"files": [["a.jsonl", 41, "5e1f..."], ...],     name, rows, digest of their content; in order
     "settings": {"sample_ratio": 1.0, ...},         of the mixture, and the tokenizer
     "usable": 40, "sizes": "91c0..."}               samples that fit, and a digest of their sizes

The digest of a file covers the values of its rows as they were read. Nothing depends on where the
data are stored. The bytes of media are not covered, except in prepared data, whose manifest has
their checksums; media of other sizes than before are noticed by the sizes of the samples.
"""

import hashlib
import itertools
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

# Hexadecimal digits of a digest.
_DIGITS = 16


class FileRecord(NamedTuple):
    """A file of annotations.

    Attributes:
      name: relative to the folder that all files of the data set share.
      rows: its entries, including unusable ones.
      digest: of their content.
    """

    name: str
    rows: int
    digest: str


class FileDigests:
    """Collects the records of files while their entries are read, file after file.

    Args:
      paths: of the files, in the order in which they are read.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._digests = [hashlib.sha256() for _ in paths]
        self._rows = [0] * len(paths)
        self._current = 0

    def add(self, where: str, value: Any) -> None:
        """Adds an entry.

        Args:
          where: its location, which begins with the path of its file.
          value: its JSON value; for an unusable entry, why it is unusable.
        """
        last = len(self._paths) - 1
        while self._current < last and not where.startswith(f"{self._paths[self._current]}:"):
            self._current += 1
        self._rows[self._current] += 1
        self._digests[self._current].update(_text(value).encode() + b"\n")

    def records(self) -> tuple[FileRecord, ...]:
        """The records of all files."""
        return tuple(
            FileRecord(name, rows, digest.hexdigest()[:_DIGITS])
            for name, rows, digest in zip(
                relative_names(self._paths), self._rows, self._digests, strict=True
            )
        )


def relative_names(paths: Sequence[str]) -> list[str]:
    """Paths without the folder that they share."""
    parts = [path.split("/") for path in paths]
    levels = zip(*(folders[:-1] for folders in parts), strict=False)
    shared = len(list(itertools.takewhile(lambda level: len(set(level)) == 1, levels)))
    return ["/".join(names[shared:]) for names in parts]


def of(
    files: Sequence[FileRecord], settings: dict[str, Any], usable: int, sizes: Sequence[np.ndarray]
) -> dict[str, Any]:
    """The record of a data set, as JSON values.

    Args:
      files: its files.
      settings: what else determines its samples; None counts as absent.
      usable: how many of its samples fit.
      sizes: integers that determine the sizes of these samples.
    """
    digest = hashlib.sha256()
    for column in sizes:
        digest.update(column.astype("<i8").tobytes())
    return {
        "files": [list(file) for file in files],
        "settings": {name: value for name, value in settings.items() if value is not None},
        "usable": usable,
        "sizes": digest.hexdigest()[:_DIGITS],
    }


def changes(before: dict[str, dict], now: dict[str, dict]) -> list[str]:
    """Describes how data sets differ from what they were; empty if they do not.

    Args:
      before: records by the names of the data sets.
      now: the same, later.
    """
    found = [f"data set {name} is gone" for name in before if name not in now]
    found += [f"data set {name} is new" for name in now if name not in before]
    for name in before:
        if name in now and before[name] != now[name]:
            found += [f"{name}: {change}" for change in _changes(before[name], now[name])]
    return found


def _changes(before: dict, now: dict) -> list[str]:
    old, new = ([FileRecord(*file) for file in record["files"]] for record in (before, now))
    found = _file_changes(old, new)
    settings = before["settings"], now["settings"]
    for name in sorted(settings[0].keys() | settings[1].keys()):
        first, second = (values.get(name) for values in settings)
        if first != second:
            found.append(f"{name} is {second!r} instead of {first!r}")
    if found or before["sizes"] == now["sizes"]:
        return found
    if before["usable"] != now["usable"]:
        return [f"{now['usable']:,} samples can be used instead of {before['usable']:,}"]
    return ["samples have other sizes, as with other media"]


def _file_changes(old: Sequence[FileRecord], new: Sequence[FileRecord]) -> list[str]:
    """Files that differ; one that only has another name does not."""
    if [file[1:] for file in old] == [file[1:] for file in new]:
        return []
    before, now = ({file.name: file for file in files} for files in (old, new))
    if sorted(old) == sorted(new):
        return ["its files are read in another order"]
    if len(old) == len(new) == 1:
        # The same file under another name.
        now = {old[0].name: new[0]}
    found = [f"{name} is gone ({before[name].rows:,} rows)" for name in before if name not in now]
    found += [f"{name} is new ({now[name].rows:,} rows)" for name in now if name not in before]
    for name in before:
        if name in now and before[name].rows != now[name].rows:
            found.append(f"{name} has {now[name].rows:,} rows instead of {before[name].rows:,}")
        elif name in now and before[name].digest != now[name].digest:
            found.append(f"{name} has {now[name].rows:,} rows as before, but with other content")
    return found


def _text(value: Any) -> str:
    """A value as text; equal values have equal texts."""
    try:
        return json.dumps(value, sort_keys=True, default=repr)
    except (RecursionError, TypeError, ValueError):
        # Unusable, so its content does not matter.
        return "unusable"
