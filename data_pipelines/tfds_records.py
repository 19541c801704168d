"""Random access to records of TFDS data sets with `tfds.data_source`, without TensorFlow.

Records have two features:

    sample  text: one annotation as JSON
    media   [{"url": text, "data": bytes}]: files stored in the record; others are in media_root

A stored file has an address, tfds:["data_dir", "name", "split", record, "url"], from which any
process can open it.
"""

import dataclasses
import functools
import json
import types
from collections.abc import Iterator, Sequence

from data_pipelines.annotation_error import CUT, TYPE, AnnotationError
from data_pipelines.media_error import MediaError

_SCHEME = "tfds:"


@dataclasses.dataclass(frozen=True)
class Record:
    """One record.

    Attributes:
      text: its annotation as JSON.
      media: the addresses of its files by url.
    """

    text: bytes
    media: dict[str, str]


def tfds_package() -> types.ModuleType:
    """Imports and returns tensorflow_datasets.

    Raises:
      AnnotationError: it is not installed.
    """
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise AnnotationError(
            f"TFDS data sets need an optional package ({error}); pip install 'ivx[tfds]'"
        ) from error
    return tensorflow_datasets


def records(data_dir: str, name: str, split: str) -> Iterator[Record]:
    """Yields all records of a split.

    Raises:
      AnnotationError: the data set or split does not exist, its features differ, or TFDS is not
        installed.
    """
    source = _open(data_dir, name, split)
    for number in range(len(source)):
        try:
            features = source[number]
        except Exception as error:  # ArrayRecord and TFDS raise many types of errors
            raise AnnotationError(
                f"{data_dir}: record {number} of {name} cannot be read ({error})", CUT
            ) from error
        if set(features) != {"sample", "media"}:
            raise AnnotationError(
                f"{data_dir}: {name} has the features {sorted(features)}, expected media and"
                " sample; build it with `ivx data tfds`",
                TYPE,
            )
        urls = [url.decode() for url in features["media"]["url"]]
        addresses = {
            url: _SCHEME + json.dumps([data_dir, name, split, number, url]) for url in urls
        }
        yield Record(features["sample"], addresses)


def is_address(path: str) -> bool:
    """Whether `path` is the address of a file stored in a record."""
    return path.startswith(_SCHEME)


def url(address: str) -> str:
    """The url of the file within its record."""
    return json.loads(address.removeprefix(_SCHEME))[-1]


def media(address: str) -> bytes:
    """Reads a file stored in a record.

    Raises:
      MediaError: the file does not exist, or cannot be read.
    """
    try:
        data_dir, name, split, number, url = json.loads(address.removeprefix(_SCHEME))
        files = _open(data_dir, name, split)[number]["media"]
        urls = [stored.decode() for stored in files["url"]]
        return files["data"][urls.index(url)]
    except Exception as error:  # ArrayRecord and TFDS raise many types of errors
        raise MediaError(f"{address}: cannot be read ({error})") from error


@functools.lru_cache(maxsize=32)
def _open(data_dir: str, name: str, split: str) -> Sequence:
    tfds = tfds_package()
    try:
        return tfds.data_source(name, split=split, data_dir=data_dir)
    except Exception as error:  # TFDS raises many types of errors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise AnnotationError(
            f"{data_dir}: no split {split} of a TFDS data set {name} in ArrayRecord format"
            f" ({reason})"
        ) from error
