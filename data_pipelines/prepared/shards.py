"""Shards: a file of records, columns beside it, and a .json that is written last of the three."""

import functools
import json
import os
import pathlib
import re
import zipfile
from collections.abc import Iterator

import numpy as np
from array_record.python import array_record_module

from data_pipelines.annotation_error import AnnotationError
from data_pipelines.media_error import MediaError
from data_pipelines.prepared import checksums

RECORDS = ".array_record"
# Records are read one by one, and videos do not shrink.
_OPTIONS = "group_size:1,uncompressed"
_ADDRESS = re.compile(
    rf"(?P<file>.+{re.escape(RECORDS)})#(?P<first>\d{{1,9}})"
    r"(?:-(?P<last>\d{1,9})|\+(?P<more>\d{1,9}))?(?P<name>/[^/]*)?"
)
# What is larger lies in several records: to read one takes five times its bytes of memory.
PIECE = 2**24
# Of one folder; an address is a name that anybody may write.
_MOST_FRAMES = 1_000_000


class Writer:
    """Writes one shard under partial names; `finish` gives it its own.

    Args:
      stem: path without a suffix.
    """

    def __init__(self, stem: pathlib.Path):
        self._stem, self._count = stem, 0
        stem.parent.mkdir(parents=True, exist_ok=True)
        self._partial = _beside(stem, f"{RECORDS}.partial")
        self._writer = array_record_module.ArrayRecordWriter(str(self._partial), _OPTIONS)

    def add(self, record: bytes) -> int:
        """Number of the record."""
        self._writer.write(record)
        self._count += 1
        return self._count - 1

    def finish(self, columns: dict[str, np.ndarray], facts: dict) -> None:
        """Writes columns and facts, and makes the shard whole."""
        self._writer.close()
        path = _beside(self._stem, RECORDS)
        checksum = checksums.of(self._partial)
        with self._partial.open("rb") as file:
            os.fsync(file.fileno())
        self._partial.replace(path)
        table = _beside(self._stem, ".npz")
        partial = _beside(self._stem, ".npz.partial")
        with partial.open("wb") as file:
            np.savez_compressed(file, **columns)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(table)
        own = {
            "records": self._count,
            "bytes": path.stat().st_size,
            "sha256": checksum,
            "columns_sha256": checksums.of(table),
        }
        write_json(_beside(self._stem, ".json"), own | facts)


def done(stem: pathlib.Path) -> bool:
    """Whether the shard is there, whole."""
    return (
        all(file.is_file() for file in files(stem))
        and _beside(stem, RECORDS).stat().st_size == read_facts(stem)["bytes"]
    )


def files(stem: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
    """The files of a shard: records, columns, facts."""
    return _beside(stem, RECORDS), _beside(stem, ".npz"), _beside(stem, ".json")


def read_facts(stem: pathlib.Path) -> dict:
    """What `finish` was given, with the number of records, bytes and checksum."""
    return json.loads(_beside(stem, ".json").read_text(encoding="utf-8"))


def read_columns(stem: pathlib.Path) -> dict[str, np.ndarray]:
    """The columns that `finish` was given.

    Raises:
      AnnotationError: they are missing or damaged.
    """
    path = _beside(stem, ".npz")
    try:
        with np.load(path) as found:
            return dict(found)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise AnnotationError(f"{path} cannot be read ({error}); prepare the data again") from error


def write_json(path: pathlib.Path, value: dict) -> None:
    """Writes a file of JSON, whole or not at all."""
    write_text(path, json_text(value))


def json_text(value: dict) -> str:
    """As files of JSON are written here."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def address(stem: str, number: int, name: str, count: int | None = None, pieces: int = 1) -> str:
    """What stands for a record where a path could; `name` is for messages, and for its suffix.

    With `count` it stands for so many records in a row, of which each is a file: a folder of
    frames. With `pieces` for so many that are one file together.
    """
    last = "" if count is None else f"-{number + count - 1}"
    more = "" if pieces == 1 else f"+{pieces - 1}"
    return f"{stem}{RECORDS}#{number}{last}{more}/{name}"


def is_address(path: str) -> bool:
    """Whether `path` is that of one file."""
    found = _ADDRESS.fullmatch(path)
    return bool(found) and found["last"] is None


def frames(path: str) -> list[str]:
    """The addresses of the records of a folder of frames; none if `path` stands for no such."""
    found = _ADDRESS.fullmatch(path)
    if not found or found["last"] is None:
        return []
    first, last = int(found["first"]), int(found["last"])
    if last - first >= _MOST_FRAMES:
        return []
    name = found["name"] or ""
    return [f"{found['file']}#{number}{name}.jpg" for number in range(first, last + 1)]


def file_of(path: str) -> str:
    """The file of records of an address; `path` itself if it is none."""
    found = _ADDRESS.fullmatch(path)
    return found["file"] if found else path


def pieces(path: str) -> Iterator[bytes]:
    """The bytes behind the address of a file, record by record.

    Raises:
      MediaError: the shard is missing or damaged.
    """
    found = _ADDRESS.fullmatch(path)
    first = int(found["first"])
    for number in range(first, first + int(found["more"] or 0) + 1):
        yield record(found["file"], number)


def record(file: str, number: int) -> bytes:
    """One record of a file.

    Raises:
      MediaError: the file is missing or damaged.
    """
    if not pathlib.Path(file).is_file():
        raise MediaError(f"{file}: no such file", "missing")
    try:
        [found] = _reader(file).read([number])
    except Exception as error:  # of kinds that array_record does not name
        raise MediaError(f"{file}: record {number} cannot be read ({error})", "damaged") from error
    if not found:
        raise MediaError(f"{file}: record {number} is empty; cut off?", "damaged")
    return found


@functools.lru_cache(maxsize=64)
def _reader(file: str):
    return array_record_module.ArrayRecordReader(file)


def _beside(stem: pathlib.Path, suffix: str) -> pathlib.Path:
    return stem.with_name(stem.name + suffix)
