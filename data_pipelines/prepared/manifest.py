"""The manifest of a prepared data set; its presence marks a folder as prepared."""

import json
import pathlib
import re

from etils import epath

from data_pipelines.annotation_error import AnnotationError
from data_pipelines.data_record import FileRecord

VERSION = 3
FILE = "manifest.json"
# The files at the top level of a prepared folder.
TOP_LEVEL_FILES = (FILE, "job.json", "media.json", "data.json")

_SHARD = re.compile(r"\d+\.array_record")


def is_in(folder: pathlib.Path | epath.Path) -> bool:
    """Whether `folder` contains a manifest."""
    return folder.is_dir() and (folder / FILE).is_file()


def read(folder: pathlib.Path) -> dict:
    """Reads the manifest of a data set, and checks it against the shards on disk.

    Raises:
      AnnotationError: the manifest is invalid or of another version, or a shard is missing or
        truncated.
    """
    try:
        manifest = json.loads((folder / FILE).read_text(encoding="utf-8"))
        version, files = manifest["version"], shards(folder, manifest)
        sizes = [int(shard["bytes"]) for shard in manifest["shards"]]
        sum(int(shard["records"]) for shard in manifest["shards"])
        _ = manifest["rule"], list(manifest["faults"]), list(manifest["left_out"])
    except (ValueError, KeyError, TypeError) as error:
        raise AnnotationError(
            f"{folder / FILE} is not the manifest of a prepared data set ({error}); give the folder"
            " of a data set"
        ) from error
    if version != VERSION:
        raise AnnotationError(
            f"{folder} has format version {version}, but this ivx reads version {VERSION};"
            " prepare the data again"
        )
    for file, size in zip(files, sizes, strict=True):
        if not file.is_file():
            raise AnnotationError(f"{file} is missing; prepare the data again")
        if file.stat().st_size != size:
            raise AnnotationError(
                f"{file} has {file.stat().st_size:,} bytes instead of {size:,}; prepare the data"
                " again"
            )
    return manifest


def shards(folder: pathlib.Path, manifest: dict) -> tuple[pathlib.Path, ...]:
    """Paths of the sample shards, in order.

    Raises:
      ValueError: a name in the manifest is not a shard name.
    """
    names = [shard["file"] for shard in manifest["shards"]]
    for name in names:
        if not _SHARD.fullmatch(name):
            raise ValueError(f"{name!r} is not a shard name")
    return tuple(folder / name for name in names)


def records(folder: pathlib.Path, manifest: dict) -> tuple[FileRecord, ...]:
    """What the shards of a data set are, and those of its media, by their stored checksums.

    Args:
      folder: of the data set.
      manifest: of the data set.
    """
    parts = {folder.name: manifest["shards"], "media": _media_shards(folder.parent)}
    return tuple(
        FileRecord(f"{part}/{shard['file']}", int(shard["records"]), shard.get("sha256", ""))
        for part, shards_of_part in parts.items()
        for shard in shards_of_part
    )


def _media_shards(folder: pathlib.Path) -> list[dict]:
    """The media shards of a prepared folder; none if its manifest is missing or damaged."""
    try:
        listed = json.loads((folder / FILE).read_text(encoding="utf-8"))["media"]["shards"]
        return [shard for shard in listed if {"file", "records"} <= shard.keys()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def files(manifest: dict) -> dict[str, int | None]:
    """Every file in the subfolders of a prepared folder: path -> size in bytes, if recorded.

    Args:
      manifest: the top-level manifest.

    Raises:
      KeyError, TypeError, AttributeError: it is not a top-level manifest.
    """
    sizes: dict[str, int | None] = {f"{name}/{FILE}": None for name in manifest["data_sets"]}
    for name, part in {"media": manifest["media"], **manifest["data_sets"]}.items():
        for shard in part["shards"]:
            stem = f"{name}/{shard['file'].removesuffix('.array_record')}"
            sizes |= {f"{stem}.array_record": shard["bytes"], f"{stem}.npz": None}
            sizes[f"{stem}.json"] = None
    return sizes
