"""Records of data sets of TFDS, read at random by `tfds.data_source`; TensorFlow is never imported.

A record of ours, whoever built it, has two features:

    sample  text, one annotation as JSON
    media   [{"url": text, "data": bytes}], files that came with it; the others lie in media_root

A file of a record has an address, tfds:["data_dir", "name", "split", record, "url"], so that a
process that decodes finds it by itself.
"""

import dataclasses
import functools
import json
from collections.abc import Iterator

from data_pipelines.annotation_error import CUT, TYPE, AnnotationError
from data_pipelines.media_error import MediaError

_SCHEME = "tfds:"


@dataclasses.dataclass(frozen=True)
class Record:
    """One record: its annotation as JSON text, and the addresses of its files by url."""

    text: bytes
    media: dict[str, str]


def tfds_package():
    """The package tensorflow_datasets.

    Raises:
      AnnotationError: it is not installed.
    """
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise AnnotationError(
            f"data sets of TFDS need a package ({error}); pip install 'ivx[tfds]'"
        ) from error
    return tensorflow_datasets


def records(data_dir: str, name: str, split: str) -> Iterator[Record]:
    """All records of a split.

    Raises:
      AnnotationError: there is no such data set or split, its features are others, or TFDS is not
        installed.
    """
    source = _open(data_dir, name, split)
    for number in range(len(source)):
        try:
            found = source[number]
        except Exception as error:  # ArrayRecord and TFDS have many
            raise AnnotationError(
                f"{data_dir}: record {number} of {name} cannot be read ({error})", CUT
            ) from error
        if set(found) != {"sample", "media"}:
            raise AnnotationError(
                f"{data_dir}: {name} has the features {sorted(found)}, expected media and sample;"
                " `ivx data tfds` builds such",
                TYPE,
            )
        urls = [url.decode() for url in found["media"]["url"]]
        keys = {url: _SCHEME + json.dumps([data_dir, name, split, number, url]) for url in urls}
        yield Record(found["sample"], keys)


def is_address(path: str) -> bool:
    """Whether `path` is the address of a file of a record."""
    return path.startswith(_SCHEME)


def url(address: str) -> str:
    """What the record calls the file."""
    return json.loads(address.removeprefix(_SCHEME))[-1]


def media(address: str) -> bytes:
    """A file of a record.

    Raises:
      MediaError: there is none, or it cannot be read.
    """
    try:
        data_dir, name, split, number, url = json.loads(address.removeprefix(_SCHEME))
        found = _open(data_dir, name, split)[number]["media"]
        return found["data"][[known.decode() for known in found["url"]].index(url)]
    except Exception as error:  # ArrayRecord and TFDS have many
        raise MediaError(f"{address}: cannot be read ({error})") from error


@functools.lru_cache(maxsize=32)
def _open(data_dir: str, name: str, split: str):
    tfds = tfds_package()
    try:
        return tfds.data_source(name, split=split, data_dir=data_dir)
    except Exception as error:  # TFDS has many
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise AnnotationError(
            f"{data_dir}: no split {split} of a data set {name} of TFDS in files of ArrayRecord"
            f" ({reason})"
        ) from error
