"""A shard: a file of records, a table of columns, and a .json of facts that is written last."""

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
PARTIAL = ".partial"
# Records are read individually, and encoded video does not compress further.
_OPTIONS = "group_size:1,uncompressed"
_ADDRESS = re.compile(
    rf"(?P<file>.+{re.escape(RECORDS)})#(?P<first>\d{{1,9}})"
    r"(?:-(?P<last>\d{1,9})|\+(?P<more>\d{1,9}))?(?P<name>/[^/]*)?"
)
# Larger files are split into several records: reading a record takes five times its size in memory.
PIECE = 2**24
# Upper bound for a folder of frames; addresses come from annotations and are not trusted.
_MAX_FRAMES = 1_000_000


class Writer:
    """Writes one shard to partial files, which `finish` renames.

    Args:
      stem: path of the shard without suffix.
    """

    def __init__(self, stem: pathlib.Path) -> None:
        self._stem, self._count = stem, 0
        stem.parent.mkdir(parents=True, exist_ok=True)
        self._partial = _with_suffix(stem, RECORDS + PARTIAL)
        self._writer = array_record_module.ArrayRecordWriter(str(self._partial), _OPTIONS)

    def add(self, record: bytes) -> int:
        """Appends a record and returns its number."""
        self._writer.write(record)
        self._count += 1
        return self._count - 1

    def finish(self, columns: dict[str, np.ndarray], facts: dict) -> None:
        """Writes columns and facts, which completes the shard."""
        self._writer.close()
        path = _with_suffix(self._stem, RECORDS)
        checksum = checksums.sha256(self._partial)
        with self._partial.open("rb") as file:
            os.fsync(file.fileno())
        self._partial.replace(path)
        table = _with_suffix(self._stem, ".npz")
        partial = _with_suffix(self._stem, f".npz{PARTIAL}")
        with partial.open("wb") as file:
            np.savez_compressed(file, **columns)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(table)
        file_facts = {
            "records": self._count,
            "bytes": path.stat().st_size,
            "sha256": checksum,
            "columns_sha256": checksums.sha256(table),
        }
        write_json(_with_suffix(self._stem, ".json"), file_facts | facts)


def is_complete(stem: pathlib.Path) -> bool:
    """Whether all files of the shard exist, with the expected number of record bytes."""
    return (
        all(file.is_file() for file in files(stem))
        and _with_suffix(stem, RECORDS).stat().st_size == read_facts(stem)["bytes"]
    )


def files(stem: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
    """Paths of a shard's files: records, columns, facts."""
    return _with_suffix(stem, RECORDS), _with_suffix(stem, ".npz"), _with_suffix(stem, ".json")


def read_facts(stem: pathlib.Path) -> dict:
    """Returns the facts given to `Writer.finish`, with record count, byte count and checksums."""
    return json.loads(_with_suffix(stem, ".json").read_text(encoding="utf-8"))


def read_columns(stem: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the columns given to `Writer.finish`.

    Raises:
      AnnotationError: they are missing or damaged.
    """
    path = _with_suffix(stem, ".npz")
    try:
        with np.load(path) as columns:
            return dict(columns)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise AnnotationError(f"{path} cannot be read ({error}); prepare the data again") from error


def write_json(path: pathlib.Path, value: dict) -> None:
    """Writes a JSON file atomically."""
    write_text(path, json_text(value))


def json_text(value: dict) -> str:
    """Formats JSON as all files of a prepared folder have it."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file atomically."""
    partial = path.with_name(path.name + PARTIAL)
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def address(stem: str, number: int, name: str, count: int | None = None, pieces: int = 1) -> str:
    """Returns the address of a stored file, which annotations use in place of a path.

    Args:
      stem: path of the shard without suffix.
      number: of the first record.
      name: the original file name; it appears in messages and supplies the suffix.
      count: the address denotes a folder of this many frames, one record each.
      pieces: the address denotes one file split into this many records.
    """
    last = "" if count is None else f"-{number + count - 1}"
    more = "" if pieces == 1 else f"+{pieces - 1}"
    return f"{stem}{RECORDS}#{number}{last}{more}/{name}"


def is_address(path: str) -> bool:
    """Whether `path` is the address of one file."""
    match = _ADDRESS.fullmatch(path)
    return bool(match) and match["last"] is None


def frames(path: str) -> list[str]:
    """Addresses of the frames of a stored folder; empty if `path` does not denote one."""
    match = _ADDRESS.fullmatch(path)
    if not match or match["last"] is None:
        return []
    first, last = int(match["first"]), int(match["last"])
    if last - first >= _MAX_FRAMES:
        return []
    name = match["name"] or ""
    return [f"{match['file']}#{number}{name}.jpg" for number in range(first, last + 1)]


def file_of(path: str) -> str:
    """The record file of an address; `path` itself if it is not an address."""
    match = _ADDRESS.fullmatch(path)
    return match["file"] if match else path


def pieces(path: str) -> Iterator[bytes]:
    """Yields the bytes of a stored file, record by record.

    Raises:
      MediaError: the shard is missing or damaged.
    """
    match = _ADDRESS.fullmatch(path)
    first = int(match["first"])
    for number in range(first, first + int(match["more"] or 0) + 1):
        yield record(match["file"], number)


def record(file: str, number: int) -> bytes:
    """Returns one record of a file.

    Raises:
      MediaError: the file is missing or damaged.
    """
    if not pathlib.Path(file).is_file():
        raise MediaError(f"{file}: no such file", "missing")
    try:
        [data] = _reader(file).read([number])
    except Exception as error:  # array_record does not document its exceptions
        raise MediaError(f"{file}: record {number} cannot be read ({error})", "damaged") from error
    if not data:
        raise MediaError(f"{file}: record {number} is empty; the file may be truncated", "damaged")
    return data


@functools.lru_cache(maxsize=64)
def _reader(file: str) -> array_record_module.ArrayRecordReader:
    return array_record_module.ArrayRecordReader(file)


def _with_suffix(stem: pathlib.Path, suffix: str) -> pathlib.Path:
    return stem.with_name(stem.name + suffix)
