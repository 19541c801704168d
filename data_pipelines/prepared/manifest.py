"""The manifest of a prepared data set: by it a folder is known as one."""

import json
import pathlib
import re

from data_pipelines.annotation_error import AnnotationError

VERSION = 2
FILE = "manifest.json"
# Of a prepared folder as a whole.
OWN_FILES = (FILE, "job.json", "media.json", "data.json")

_SHARD = re.compile(r"\d+\.array_record")


def is_in(folder: pathlib.Path) -> bool:
    """Whether there is one in `folder`."""
    return folder.is_dir() and (folder / FILE).is_file()


def read(folder: pathlib.Path) -> dict:
    """The manifest of a data set.

    Raises:
      AnnotationError: it is none, or of another version, or a shard is missing or cut off.
    """
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        version, files = found["version"], shards(folder, found)
        sizes = [int(shard["bytes"]) for shard in found["shards"]]
        sum(int(shard["records"]) for shard in found["shards"])
        _ = found["rule"], list(found["faults"]), list(found["left_out"])
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
    for file, size in zip(files, sizes, strict=True):
        if not file.is_file():
            raise AnnotationError(f"{file} is missing; prepare the data again")
        if file.stat().st_size != size:
            raise AnnotationError(
                f"{file} has {file.stat().st_size:,} bytes of {size:,}; prepare the data again"
            )
    return found


def shards(folder: pathlib.Path, manifest: dict) -> tuple[pathlib.Path, ...]:
    """The files of samples, in order.

    Raises:
      ValueError: one is named as no shard is.
    """
    names = [shard["file"] for shard in manifest["shards"]]
    for name in names:
        if not _SHARD.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a shard")
    return tuple(folder / name for name in names)


def files(whole: dict) -> dict[str, int | None]:
    """Every file in the folders of a prepared folder: its bytes, where they are known, by its path.

    Args:
      whole: the manifest of the whole.

    Raises:
      KeyError, TypeError, AttributeError: it is none.
    """
    found: dict[str, int | None] = {f"{name}/{FILE}": None for name in whole["data_sets"]}
    for name, part in {"media": whole["media"], **whole["data_sets"]}.items():
        for shard in part["shards"]:
            stem = f"{name}/{shard['file'].removesuffix('.array_record')}"
            found |= {f"{stem}.array_record": shard["bytes"], f"{stem}.npz": None}
            found[f"{stem}.json"] = None
    return found
