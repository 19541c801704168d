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
import os
import pathlib
import re
from typing import Any

import numpy as np
from etils import epath

from data_pipelines import formats, media
from data_pipelines.annotation_error import ADDRESS, AnnotationError
from data_pipelines.formats.columns import is_number
from data_pipelines.media_files import is_hidden
from data_pipelines.prepared import checksums, manifest
from data_pipelines.sources import json_values
from data_pipelines.sources.overrides import OVERRIDE_KEYS, Overrides, parse_overrides
from ivx.text.printable import misencoded

# In a folder, all files of the first of these kinds that it contains are read, hidden ones apart.
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


# Names become folders, whose names may have 255 bytes with a suffix.
_LONGEST_NAME = 200
# More would be a mistake, and a list of all samples of an epoch is held in memory.
_LARGEST_RATIO, _LARGEST_EPOCH = 10_000, 10**8

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
            f"{path}: no data set {', '.join(missing)}; there are {', '.join(entries)}; name one of"
            " them, in --config.data.train and --config.data.validation or in --split"
        )
    data_sets = []
    for name in names:
        try:
            data_sets.append(_data_set(path, name, entries[name]))
        except ImportError as error:  # the client of a remote file system
            raise AnnotationError(
                f"{path}: data set {name} needs a package ({error}); for gs:// install 'ivx[gcs]'"
            ) from error
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
            raise AnnotationError(
                f"{path}: a path of data set {name} cannot be read ({error})"
            ) from error
    return data_sets


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
        # `os.path` takes a path that cannot be read for one that is not there; `read_mixture` says
        # why.
        if os.path.isfile(folder.parent / checksums.FILE) or os.path.isfile(folder / manifest.FILE):
            folders.setdefault(folder.parent, []).append(folder.name)
    return folders


def epoch_indices(size: int, ratio: float) -> np.ndarray:
    """Indices of the samples that an epoch takes: int64 [int(ratio * size)].

    All samples int(ratio) times, then the first ones once more.
    """
    return np.arange(epoch_size(size, ratio), dtype=np.int64) % max(size, 1)


def epoch_size(size: int, ratio: float) -> int:
    """How many samples an epoch takes.

    Raises:
      AnnotationError: too many to list.
    """
    count = int(size * ratio)
    if count > _LARGEST_EPOCH:
        raise AnnotationError(
            f"a sample_ratio of {ratio:g} for {size:,} samples makes an epoch of {count:,}; at most"
            f" {_LARGEST_EPOCH:,} are supported"
        )
    return count


def _entries(path: pathlib.Path) -> dict[str, Any]:
    if path.is_dir():
        raise AnnotationError(
            f"no mixture file at {path}, which is a folder; give the file in it, such as data.json"
        )
    if not path.is_file():
        raise AnnotationError(
            f"no mixture file at {path}; `ivx data synthesize --out={path.parent}` makes one"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except ValueError as error:
        raise AnnotationError(f"{path}: not UTF-8 text ({error})") from error
    if path.suffix == ".jsonl":
        raise AnnotationError(
            f"{path} is an annotation file; give a mixture file that names it, as in"
            f' {{"mine": {{"annotation": "{path.name}"}}}}'
        )
    entries = json_values.parse(text, str(path))
    if not isinstance(entries, dict):
        raise AnnotationError(f"{path}: expected an object of data sets by name")
    return entries


def _data_set(mixture: pathlib.Path, name: str, entry: Any) -> DataSet:
    if not re.fullmatch(r"\w[\w.-]*", name) or len(name.encode()) > _LONGEST_NAME:
        raise AnnotationError(
            f"{mixture}: {name[:80]!r} cannot name a data set; use letters, digits, . _ -, at most"
            f" {_LONGEST_NAME} bytes"
        )
    where = f"{mixture}: data set {name}"
    unknown = sorted(set(entry) - set(_KEYS)) if isinstance(entry, dict) else []
    if not isinstance(entry, dict) or "annotation" not in entry or unknown:
        wrong = f"has no key {', '.join(unknown)}" if unknown else f"is {entry!r}"
        raise AnnotationError(
            f"{where} {wrong}; expected annotation and optionally {', '.join(_KEYS[1:])}"
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
    if not is_number(ratio) or not 0 < ratio <= _LARGEST_RATIO:
        raise AnnotationError(
            f"{where} has sample_ratio {str(ratio)[:80]}; it must be a positive number, at most"
            f" {_LARGEST_RATIO:,}"
        )
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
        found = _files_in(path)
        by_kind = [tuple(file for file in found if file.suffix == kind) for kind in SUFFIXES]
        files = next((files for files in by_kind if files), ())
    missing = [file for file in files if not file.is_file()]
    if not files or missing == [path]:
        raise AnnotationError(f"{where} has no annotation at {path}")
    if missing:
        raise AnnotationError(f"{where}: {missing[0]} is no file, or a link to none; remove it")
    for file in files:
        if misencoded(str(file)):
            raise AnnotationError(f"{where}: the file name {str(file)!r} is not UTF-8; rename it")
    return files


def _files_in(folder: pathlib.Path | epath.Path) -> list[pathlib.Path | epath.Path]:
    """Files of a folder, sorted; hidden ones and those of hidden subfolders are left out.

    Raises:
      OSError: a subfolder cannot be listed.
    """
    if not isinstance(folder, pathlib.Path):
        # A remote folder is not searched recursively, because epath cannot.
        return sorted(file for file in folder.iterdir() if not is_hidden(file.name))
    files = []
    for base, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not is_hidden(name)]
        files += [pathlib.Path(base, name) for name in names if not is_hidden(name)]
    return sorted(files)


def _raise(error: OSError) -> None:
    raise error


def _overrides(entry: dict, where: str) -> Overrides | None:
    if entry.get("enable_3d_rope", True) is not True:
        raise AnnotationError(
            f"{where} has enable_3d_rope {entry['enable_3d_rope']!r}, but positions always have"
            " three axes here; remove the key, and expect positions that differ from a run without"
            " 3D RoPE"
        )
    return parse_overrides(entry, where)
