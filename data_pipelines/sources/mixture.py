"""Mixture files: the data sets of a run, where they are stored, and how each is read.

    {"name": {"annotation": "x.jsonl, another file, or a folder", "media_root": "DIR or gs://...",
              "sample_ratio": 1.0}, ...}

Relative paths start at the folder of the mixture file. With these keys and those of `Overrides`,
mixtures of InternVideo3 can be used unchanged. ivx adds these keys:

    format        annotation format, see `data_pipelines.formats`; the default is messages
    fields        column names, for formats without fixed ones
    media_suffix  appended to video names in formats that omit it; the default is .mp4
    tfds, split   name and split of a TFDS data set; annotation is then its data_dir

An annotation may also be the folder of a data set that `ivx data prepare` wrote. Such a folder
includes its media and its overrides; overrides in the mixture take precedence.

A sample_ratio of s repeats a data set int(s) times per epoch, and then the first samples once more
for the fraction of s (XTuner, datasets/jsonl.py).
"""

import dataclasses
import json
import pathlib
import re
from typing import Any

import numpy as np
from etils import epath

from data_pipelines import formats, media
from data_pipelines.annotation_error import ADDRESS, AnnotationError
from data_pipelines.formats.columns import is_number
from data_pipelines.prepared import checksums, manifest
from data_pipelines.sources.overrides import OVERRIDE_KEYS, Overrides, parse_overrides

# In a folder, all files of the first of these kinds that it contains are read.
SUFFIXES = (".jsonl", ".parquet", ".array_record", ".json", ".txt")


@dataclasses.dataclass(frozen=True)
class DataSet:
    """One entry of a mixture.

    Attributes:
      name: its key in the mixture.
      annotations: annotation files; for TFDS only the data_dir.
      media_root: local or remote folder of the media.
      sample_ratio: how many times an epoch takes each sample, see `epoch_indices`.
      format: of the annotations.
      fields: column names by what the columns hold.
      media_suffix: appended to video names in formats that omit it.
      tfds: name of the TFDS data set; empty for files.
      split: of the TFDS data set.
      overrides: layout settings that differ from the config.
      prepared: folder that `ivx data prepare` wrote; None for other annotations.
    """

    name: str
    annotations: tuple[pathlib.Path | epath.Path, ...]
    media_root: pathlib.Path | epath.Path
    sample_ratio: float
    format: str = formats.MESSAGES
    fields: dict[str, str] = dataclasses.field(default_factory=dict)
    media_suffix: str = ".mp4"
    tfds: str = ""
    split: str = ""
    overrides: Overrides | None = None
    prepared: pathlib.Path | None = None


_TEXT_KEYS = ("annotation", "media_root", "format", "media_suffix", "tfds", "split")
_KEYS = (*_TEXT_KEYS, "sample_ratio", "fields", "enable_3d_rope", *OVERRIDE_KEYS)


def read_mixture(path: str | pathlib.Path, names: tuple[str, ...]) -> list[DataSet]:
    """Reads the named data sets of a mixture file.

    Raises:
      AnnotationError: the file or a data set is missing, or an entry is malformed.
    """
    path = pathlib.Path(path)
    entries = _entries(path)
    missing = [name for name in names if name not in entries]
    if missing:
        raise AnnotationError(
            f"{path}: no data set {', '.join(missing)}; there are {', '.join(entries)}"
        )
    return [_data_set(path, name, entries[name]) for name in names]


def data_set_names(path: str | pathlib.Path) -> list[str]:
    """Names of the data sets of a mixture file.

    Raises:
      AnnotationError: the file is missing or is not a mixture.
    """
    return list(_entries(pathlib.Path(path)))


def prepared_folders(
    path: str | pathlib.Path, names: tuple[str, ...]
) -> dict[pathlib.Path, list[str]]:
    """Folders that `ivx data prepare` wrote, with the data sets in each, among the named ones.

    Unlike `read_mixture`, it finds them even if files in them are missing or damaged.

    Raises:
      AnnotationError: the file is missing or is not a mixture.
    """
    folders: dict[pathlib.Path, list[str]] = {}
    for name, entry in _entries(pathlib.Path(path)).items():
        annotation = entry.get("annotation") if isinstance(entry, dict) else None
        if name not in names or not isinstance(annotation, str) or "://" in annotation:
            continue
        folder = pathlib.Path(path).parent / annotation
        if (folder.parent / checksums.FILE).is_file() or manifest.is_in(folder):
            folders.setdefault(folder.parent, []).append(folder.name)
    return folders


def epoch_indices(size: int, ratio: float) -> np.ndarray:
    """Indices of the samples that an epoch takes: int64 [int(ratio * size)].

    All samples int(ratio) times, then the first ones once more.
    """
    return np.arange(int(size * ratio), dtype=np.int64) % max(size, 1)


def _entries(path: pathlib.Path) -> dict[str, Any]:
    if not path.is_file():
        raise AnnotationError(
            f"no mixture file at {path}; `ivx data synthesize --out={path.parent}` makes one"
        )
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(entries, dict):
        raise AnnotationError(f"{path}: expected an object of data sets by name")
    return entries


def _data_set(mixture: pathlib.Path, name: str, entry: Any) -> DataSet:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise AnnotationError(
            f"{mixture}: {name!r} cannot name a data set; use letters, digits, . _ -"
        )
    where = f"{mixture}: data set {name}"
    unknown = sorted(set(entry) - set(_KEYS)) if isinstance(entry, dict) else []
    if not isinstance(entry, dict) or "annotation" not in entry or unknown:
        raise AnnotationError(
            f"{where} is {entry!r}; expected annotation and optionally {', '.join(_KEYS[1:])}"
        )
    wrong = [key for key in _TEXT_KEYS if not isinstance(entry.get(key, ""), str)]
    fields = entry.get("fields", {})
    if not isinstance(fields, dict) or not all(isinstance(v, str) for v in fields.values()):
        wrong.append("fields")
    if wrong:
        raise AnnotationError(
            f"{where} has a wrong type in {', '.join(wrong)}; fields must be an object of column"
            " names, the other keys text"
        )
    format_name = entry.get("format", formats.MESSAGES)
    if format_name not in formats.FORMATS:
        raise AnnotationError(
            f"{where} has the format {format_name!r}; there are {', '.join(formats.FORMATS)}"
        )
    ratio = entry.get("sample_ratio", 1.0)
    if not is_number(ratio) or ratio <= 0:
        raise AnnotationError(f"{where} has sample_ratio {ratio!r}; it must be a positive number")
    if ("tfds" in entry) != ("split" in entry):
        raise AnnotationError(
            f"{where}: tfds and split go together; give both the name and a split"
        )
    prepared = _prepared(mixture, entry, where)
    return DataSet(
        name,
        _files(mixture, entry, where),
        prepared.parent if prepared else _root(mixture, entry.get("media_root", "."), where),
        float(ratio),
        format_name,
        fields,
        entry.get("media_suffix", ".mp4"),
        entry.get("tfds", ""),
        entry.get("split", ""),
        _overrides(entry, where),
        prepared,
    )


def _root(mixture: pathlib.Path, root: str, where: str) -> pathlib.Path | epath.Path:
    if media.is_remote(root):
        return epath.Path(root)
    if "://" in root:
        raise AnnotationError(
            f"{where}: media_root {root} is not supported; give a local folder or an address that"
            f" begins with {', '.join(media.REMOTE)}",
            ADDRESS,
        )
    return mixture.parent / root


def _prepared(mixture: pathlib.Path, entry: dict, where: str) -> pathlib.Path | None:
    """The folder of a prepared data set; None for other annotations."""
    folder = _root(mixture, entry["annotation"], where)
    if entry.get("tfds") or not manifest.is_in(folder):
        return None
    if not isinstance(folder, pathlib.Path):
        raise AnnotationError(
            f"{where} is prepared and cannot be read remotely; copy {folder} to a local disk",
            ADDRESS,
        )
    conflicts = {"media_root", "format", "fields", "media_suffix"} & set(entry)
    if conflicts:
        raise AnnotationError(
            f"{where} is prepared and includes its media; remove {', '.join(sorted(conflicts))}"
        )
    return folder


def _files(mixture: pathlib.Path, entry: dict, where: str) -> tuple[pathlib.Path | epath.Path, ...]:
    path = _root(mixture, entry["annotation"], where)
    if entry.get("tfds"):
        return (path,)
    if manifest.is_in(path):
        return manifest.shards(path, manifest.read(path))
    if not path.is_dir():
        files = (path,)
    else:
        # A remote folder is not searched recursively, because epath cannot.
        search = path.rglob if isinstance(path, pathlib.Path) else path.glob
        by_kind = [tuple(sorted(search(f"*{suffix}"))) for suffix in SUFFIXES]
        files = next((files for files in by_kind if files), ())
    if not files or not all(file.is_file() for file in files):
        raise AnnotationError(f"{where} has no annotation at {path}")
    return files


def _overrides(entry: dict, where: str) -> Overrides | None:
    if entry.get("enable_3d_rope", True) is not True:
        raise AnnotationError(
            f"{where} has enable_3d_rope {entry['enable_3d_rope']!r}, but positions always have"
            " three axes here; remove the key, and expect positions that differ from a run without"
            " 3D RoPE"
        )
    return parse_overrides(entry, where)
