"""What stands in annotation files, one entry after the other, each with its place.

    .jsonl         a JSON value a line                      file:line
    .txt           a line of text                           file:line
    .json          the values of an array, or of an object, whose key joins each as "vid"
    .array_record  a JSON value a record                    file:record
    .parquet       a row; columns of text that holds JSON lists are read, nulls left out
    TFDS           see `data_pipelines.tfds_records`        data_dir:record

An entry that cannot be read becomes a fault and the next is read; a file that cannot be read at all
is an error.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping

from data_pipelines import tfds_records
from data_pipelines.annotation_error import CUT, NOT_JSON, NOT_TEXT, AnnotationError, Fault
from data_pipelines.sources.mixture import DataSet

# Of a Parquet file, the columns that hold lists as JSON text where they hold text.
_NESTED = ("messages", "truths", "tools", "options")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One entry: its place, what stands there, and the addresses of files that came with it."""

    where: str
    value: object
    stored: Mapping[str, str] = dataclasses.field(default_factory=dict)


def entries(data_set: DataSet) -> Iterator[Entry | Fault]:
    """All entries of a data set, in the order of its files.

    Raises:
      AnnotationError: a file that is not of its kind, or a package that it needs is missing.
    """
    if data_set.tfds:
        yield from _tfds(data_set)
        return
    for file in data_set.annotations:
        read = _READERS.get(file.suffix)
        if read is None:
            raise AnnotationError(
                f"{file}: annotations of this kind are not read; known are {', '.join(_READERS)}"
            )
        yield from read(file)


def _lines(file: pathlib.Path) -> Iterator[tuple[str, str, bool] | Fault]:
    """Lines that are not blank: place, text, whether it is whole; split at \\n alone."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            where, whole = f"{file}:{number}", line.endswith(b"\n")
            try:
                # utf-8-sig: some editors put a mark before the first line.
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                yield Fault(where, NOT_TEXT, f"{where}: not UTF-8 text ({error})")
                continue
            if text:
                yield where, text, whole


def _text_lines(file: pathlib.Path) -> Iterator[Entry | Fault]:
    for line in _lines(file):
        yield line if isinstance(line, Fault) else Entry(*line[:2])


def _json_lines(file: pathlib.Path) -> Iterator[Entry | Fault]:
    for line in _lines(file):
        if isinstance(line, Fault):
            yield line
            continue
        where, text, whole = line
        entry = _parsed(where, text)
        if isinstance(entry, Fault) and not whole:
            # A file that is still being written, or was not copied to its end.
            entry = Fault(where, CUT, f"{where}: half a line at the end of the file")
        yield entry


def _json_document(file: pathlib.Path) -> Iterator[Entry]:
    try:
        found = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{file}: not valid JSON ({error})", NOT_JSON) from error
    if isinstance(found, dict):
        for key, value in found.items():
            yield Entry(
                f"{file}:{key}", {"vid": key, **value} if isinstance(value, dict) else value
            )
        return
    if not isinstance(found, list):
        raise AnnotationError(f"{file}: expected an array or an object of annotations", NOT_JSON)
    for number, value in enumerate(found, 1):
        yield Entry(f"{file}:{number}", value)


def _array_record(file: pathlib.Path) -> Iterator[Entry | Fault]:
    from array_record.python import array_record_module

    try:
        reader = array_record_module.ArrayRecordReader(str(file))
        # A damaged file has none, and says why when it is closed.
        count = reader.num_records() or reader.close()
    except Exception as error:  # of several kinds, by what is damaged
        raise AnnotationError(f"{file}: not a readable ArrayRecord file ({error})") from error
    try:
        for number in range(count or 0):
            where = f"{file}:{number + 1}"
            try:
                record = reader.read([number])[0]
                text = record.decode("utf-8")
            except UnicodeDecodeError as error:
                yield Fault(where, NOT_TEXT, f"{where}: not UTF-8 text ({error})")
                continue
            except Exception as error:
                yield Fault(where, CUT, f"{where}: the record cannot be read ({error})")
                continue
            yield _parsed(where, text)
    finally:
        reader.close()


def _parquet(file: pathlib.Path) -> Iterator[Entry | Fault]:
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
                for row in batch.to_pylist():
                    number += 1
                    yield _row(f"{file}:{number}", row)
    except (OSError, ValueError) as error:  # pyarrow's own derive from these
        raise AnnotationError(f"{file}: not a readable Parquet file ({error})") from error


def _row(where: str, row: dict) -> Entry | Fault:
    row = _without_nulls(row)
    for key in _NESTED:
        if isinstance(row.get(key), str):
            found = _parsed(where, row[key])
            if isinstance(found, Fault):
                return found
            row[key] = found.value
    return Entry(where, row)


def _without_nulls(value):
    """The rows of a table have all keys; those that an annotation leaves out are null there."""
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    if isinstance(value, list):
        return [_without_nulls(part) for part in value]
    return value


def _tfds(data_set: DataSet) -> Iterator[Entry | Fault]:
    [data_dir] = data_set.annotations
    # Absolute, as the addresses of media are kept.
    found = tfds_records.records(str(data_dir.resolve()), data_set.tfds, data_set.split)
    for number, record in enumerate(found, 1):
        where = f"{data_dir / data_set.tfds}:{data_set.split}:{number}"
        entry = _parsed(where, record.text.decode("utf-8", errors="replace"))
        yield entry if isinstance(entry, Fault) else Entry(where, entry.value, record.media)


def _parsed(where: str, text: str) -> Entry | Fault:
    try:
        return Entry(where, json.loads(text))
    except (ValueError, RecursionError) as error:
        return Fault(where, NOT_JSON, f"{where}: not valid JSON ({error})")


_READERS = {
    ".jsonl": _json_lines,
    ".parquet": _parquet,
    ".array_record": _array_record,
    ".json": _json_document,
    ".txt": _text_lines,
}
