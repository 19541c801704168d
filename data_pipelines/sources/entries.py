"""Entries of annotation files, one at a time, with their location for messages.

    .jsonl         one JSON value per line                  file:line
    .txt           one line of text                         file:line
    .json          the values of an array, or of an object  file:index, file:key
                   whose keys become "vid" of the values
    .array_record  one JSON value per record                file:record
    .parquet       one row; text columns that hold JSON     file:row
                   lists are parsed, nulls are dropped
    TFDS           see `data_pipelines.tfds_records`        data_dir/name:split:record

An unreadable entry becomes a fault, and reading goes on. An unreadable file raises an error.
"""

import dataclasses
import io
import itertools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from data_pipelines import tfds_records
from data_pipelines.annotation_error import (
    CUT,
    NOT_JSON,
    NOT_TEXT,
    VALUE,
    AnnotationError,
    Fault,
)
from data_pipelines.sources import json_values
from data_pipelines.sources.mixture import DataSet

# Columns of a Parquet file that hold lists; where they hold text, it is parsed as JSON.
_NESTED = ("messages", "truths", "tools", "options")

# Bytes of a line. A longer one, as of a file that is no text, takes several times its size.
_LONGEST_LINE = 2**26

AnyPath = pathlib.Path | epath.Path


@dataclasses.dataclass(frozen=True)
class Entry:
    """One entry of an annotation file.

    Attributes:
      where: its location, such as file:line.
      value: the JSON value or the line of text.
      stored: addresses of media that are stored with the entry, by url.
    """

    where: str
    value: Any
    stored: Mapping[str, str] = dataclasses.field(default_factory=dict)


def entries(data_set: DataSet) -> Iterator[Entry | Fault]:
    """All entries of a data set, in the order of its files.

    Raises:
      AnnotationError: a file is malformed or of an unknown kind, or a package is missing.
    """
    if data_set.tfds:
        yield from _tfds(data_set)
        return
    for file in data_set.annotations:
        read = _READERS.get(file.suffix)
        if read is None:
            raise AnnotationError(
                f"{file}: cannot read annotations of this kind; expected {', '.join(_READERS)}"
            )
        try:
            yield from read(file)
        except OSError as error:
            raise AnnotationError(f"{file}: cannot be read ({error.strerror or error})") from error


def _lines(file: AnyPath) -> Iterator[tuple[str, str, bool] | Fault]:
    """Non-blank lines as (where, text, ends with a newline); split only at \\n."""
    # The buffer, because `readline` of remote files takes no size.
    with file.open("rb") as opened, io.BufferedReader(opened) as lines:
        for number in itertools.count(1):
            line = lines.readline(_LONGEST_LINE)
            if not line:
                return
            where, complete = f"{file}:{number}", line.endswith(b"\n")
            if len(line) == _LONGEST_LINE and not complete:
                yield Fault(where, VALUE, f"{where}: longer than {_LONGEST_LINE:,} bytes")
                while line and not line.endswith(b"\n"):
                    line = lines.readline(_LONGEST_LINE)
                continue
            try:
                # utf-8-sig, because some editors write a byte order mark before the first line.
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                yield Fault(where, NOT_TEXT, f"{where}: not UTF-8 text ({error})")
                continue
            if text:
                yield where, text, complete


def _text_lines(file: AnyPath) -> Iterator[Entry | Fault]:
    for line in _lines(file):
        yield line if isinstance(line, Fault) else _checked(*line[:2])


def _json_lines(file: AnyPath) -> Iterator[Entry | Fault]:
    for line in _lines(file):
        if isinstance(line, Fault):
            yield line
            continue
        where, text, complete = line
        entry = _parse(where, text)
        if isinstance(entry, Fault) and entry.cause == NOT_JSON and not complete:
            # The file is still being written, or was not copied completely.
            entry = Fault(where, CUT, f"{where}: incomplete line at the end of the file")
        yield entry


def _json_document(file: AnyPath) -> Iterator[Entry | Fault]:
    try:
        document = json_values.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{file}: not valid JSON ({error})", NOT_JSON) from error
    if isinstance(document, json_values.RepeatingObject):
        for key in document.repeated:
            where = f"{file}:{key}"
            yield Fault(where, VALUE, f"{where}: the key occurs more than once; the last is read")
    if isinstance(document, dict):
        for key, value in document.items():
            yield _checked(
                f"{file}:{key}", {"vid": key, **value} if isinstance(value, dict) else value
            )
        return
    if not isinstance(document, list):
        raise AnnotationError(f"{file}: expected an array or an object of annotations", NOT_JSON)
    for number, value in enumerate(document, 1):
        yield _checked(f"{file}:{number}", value)


def _array_record(file: AnyPath) -> Iterator[Entry | Fault]:
    from array_record.python import array_record_module

    try:
        reader = array_record_module.ArrayRecordReader(str(file))
        # A damaged file has zero records, and raises its error when it is closed.
        count = reader.num_records() or reader.close()
    except Exception as error:  # the type depends on what is damaged
        raise AnnotationError(f"{file}: not a readable ArrayRecord file ({error})") from error
    try:
        for index in range(count or 0):
            where = f"{file}:{index + 1}"
            try:
                record = reader.read([index])[0]
                text = record.decode("utf-8")
            except UnicodeDecodeError as error:
                yield Fault(where, NOT_TEXT, f"{where}: not UTF-8 text ({error})")
                continue
            except Exception as error:
                yield Fault(where, CUT, f"{where}: the record cannot be read ({error})")
                continue
            yield _parse(where, text)
    finally:
        reader.close()


def _parquet(file: AnyPath) -> Iterator[Entry | Fault]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise AnnotationError(
            f"{file}: Parquet needs a package ({error}); pip install 'ivx[parquet]'"
        ) from error
    number = 0
    try:
        with file.open("rb") as opened, parquet.ParquetFile(opened) as table:
            for batch in table.iter_batches(batch_size=256):
                for index in range(batch.num_rows):
                    number += 1
                    yield _table_row(f"{file}:{number}", batch.slice(index, 1))
    except (OSError, ValueError) as error:  # the errors of pyarrow derive from these
        raise AnnotationError(f"{file}: not a readable Parquet file ({error})") from error


def _table_row(where: str, batch: Any) -> Entry | Fault:
    """The entry of a record batch of one row."""
    try:
        [row] = batch.to_pylist()
    except UnicodeDecodeError as error:
        return Fault(where, NOT_TEXT, f"{where}: not UTF-8 text ({error})")
    except (ValueError, OverflowError) as error:  # such as a date that Python does not have
        return Fault(where, VALUE, f"{where}: the row cannot be read ({error})")
    row = _without_nulls(row)
    for key in _NESTED:
        if isinstance(row.get(key), str):
            entry = _parse(where, row[key])
            if isinstance(entry, Fault):
                return entry
            row[key] = entry.value
    return _checked(where, row)


def _without_nulls(value: Any) -> Any:
    """Drops nulls: table rows have all columns, and keys missing in an annotation are null."""
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    if isinstance(value, list):
        return [_without_nulls(part) for part in value]
    return value


def _tfds(data_set: DataSet) -> Iterator[Entry | Fault]:
    [data_dir] = data_set.annotations
    # An absolute path, because it becomes part of the addresses of media.
    records = tfds_records.records(str(data_dir.resolve()), data_set.tfds, data_set.split)
    for number, record in enumerate(records, 1):
        where = f"{data_dir / data_set.tfds}:{data_set.split}:{number}"
        try:
            entry = _parse(where, record.text.decode("utf-8"))
        except UnicodeDecodeError as error:
            entry = Fault(where, NOT_TEXT, f"{where}: not UTF-8 text ({error})")
        yield entry if isinstance(entry, Fault) else Entry(where, entry.value, record.media)


def _parse(where: str, text: str) -> Entry | Fault:
    try:
        return Entry(where, json_values.parse(text, where))
    except AnnotationError as error:
        return Fault.from_error(where, error)


def _checked(where: str, value: Any) -> Entry | Fault:
    try:
        json_values.check(value, where)
    except AnnotationError as error:
        return Fault.from_error(where, error)
    return Entry(where, value)


_READERS = {
    ".jsonl": _json_lines,
    ".parquet": _parquet,
    ".array_record": _array_record,
    ".json": _json_document,
    ".txt": _text_lines,
}
