"""The manifest of a prepared data set: by it a folder is known as one."""

import json
import pathlib

from data_pipelines.annotation_error import AnnotationError

VERSION = 1
FILE = "manifest.json"


def is_in(folder: pathlib.Path) -> bool:
    """Whether there is one in `folder`."""
    return folder.is_dir() and (folder / FILE).is_file()


def read(folder: pathlib.Path) -> dict:
    """The manifest of a data set.

    Raises:
      AnnotationError: it is none, or of another version, or a shard is missing.
    """
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        version, files = found["version"], shards(folder, found)
    except (ValueError, KeyError, TypeError) as error:
        raise AnnotationError(
            f"{folder / FILE} is no manifest of a prepared data set ({error}); name the folder of a"
            " data set"
        ) from error
    if version != VERSION:
        raise AnnotationError(
            f"{folder} was prepared in version {version} of the format, this ivx reads {VERSION};"
            " prepare it again"
        )
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise AnnotationError(f"{missing[0]} is missing; prepare the data again")
    return found


def shards(folder: pathlib.Path, manifest: dict) -> tuple[pathlib.Path, ...]:
    """The files of samples, in order."""
    return tuple(folder / shard["file"] for shard in manifest["shards"])
