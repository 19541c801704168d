"""Mixture files: which data sets there are, where they lie, and what each changes.

    {"name": {"annotation": "x.jsonl, another file, or a folder", "media_root": "DIR or gs://...",
              "sample_ratio": 1.0}, ...}

Relative paths start at the folder of the mixture file. With these keys, and the overrides of
`Overrides`, a mixture of InternVideo3 is read as it is. Of our own are

    format        of the annotations, see `data_pipelines.formats`; messages if not given
    fields        names of columns, for formats that have none of their own
    media_suffix  what to add to the names of videos in formats that leave it out; .mp4
    tfds, split   the name of a data set of TFDS, and its split; annotation is its data_dir

An annotation may also be the folder of a data set that `ivx data prepare` wrote, which brings its
media and its overrides; those of the mixture come first.

A sample_ratio of s repeats a data set int(s) times in an epoch; of what is left of s, the first
samples follow once more (XTuner, datasets/jsonl.py).
"""

import dataclasses
import json
import pathlib
import re

import numpy as np
from etils import epath

from data_pipelines import formats, media
from data_pipelines.annotation_error import ADDRESS, AnnotationError
from data_pipelines.formats.columns import is_number
from data_pipelines.prepared import checksums, manifest
from data_pipelines.sources import overriding
from data_pipelines.sources.sample import Overrides

# Of a folder, the files of the first kind that it holds are read.
SUFFIXES = (".jsonl", ".parquet", ".array_record", ".json", ".txt")


@dataclasses.dataclass(frozen=True)
class DataSet:
    """One entry of a mixture.

    Attributes:
      name: in the mixture.
      annotations: files; of TFDS the data_dir alone.
      media_root: folder, here or remote, that holds the media.
      sample_ratio: how often an epoch takes each of its samples, see `repeats`.
      format: of the annotations.
      fields: names of columns by what they hold.
      media_suffix: of videos whose format leaves it out.
      tfds: name of the data set of TFDS; empty for files.
      split: of it.
      overrides: what it changes of the rules of layout.
      prepared: the folder that `ivx data prepare` wrote; None for annotations of any other kind.
    """

    name: str
    annotations: tuple[pathlib.Path, ...]
    media_root: pathlib.Path
    sample_ratio: float
    format: str = formats.MESSAGES
    fields: dict[str, str] = dataclasses.field(default_factory=dict)
    media_suffix: str = ".mp4"
    tfds: str = ""
    split: str = ""
    overrides: Overrides | None = None
    prepared: pathlib.Path | None = None


_TEXTS = ("annotation", "media_root", "format", "media_suffix", "tfds", "split")
_KEYS = (*_TEXTS, "sample_ratio", "fields", "enable_3d_rope", *overriding.NAMES)


def read_mixture(path: str | pathlib.Path, names: tuple[str, ...]) -> list[DataSet]:
    """Reads the named data sets of a mixture file.

    Raises:
      AnnotationError: no such file, a data set that is not in it, or an entry that is not as above.
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
      AnnotationError: there is no such file, or it is no mixture.
    """
    return list(_entries(pathlib.Path(path)))


def prepared_folders(
    path: str | pathlib.Path, names: tuple[str, ...]
) -> dict[pathlib.Path, list[str]]:
    """Folders that `ivx data prepare` wrote, and the data sets of each that the named ones are.

    Unlike `read_mixture` it finds them also where files in them are missing or damaged.

    Raises:
      AnnotationError: there is no such file, or it is no mixture.
    """
    found: dict[pathlib.Path, list[str]] = {}
    for name, entry in _entries(pathlib.Path(path)).items():
        place = entry.get("annotation") if isinstance(entry, dict) else None
        if name not in names or not isinstance(place, str) or "://" in place:
            continue
        place = pathlib.Path(path).parent / place
        if (place.parent / checksums.FILE).is_file() or manifest.is_in(place):
            found.setdefault(place.parent, []).append(place.name)
    return found


def repeats(size: int, ratio: float) -> np.ndarray:
    """Which of `size` samples an epoch takes, by their numbers: int64 [int(ratio * size)].

    All of them int(ratio) times, then the first ones once more.
    """
    return np.arange(int(size * ratio), dtype=np.int64) % max(size, 1)


def _entries(path: pathlib.Path) -> dict:
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


def _data_set(mixture: pathlib.Path, name: str, entry: dict) -> DataSet:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise AnnotationError(
            f"{mixture}: {name!r} cannot name a data set; use letters, digits, . _ -"
        )
    where = f"{mixture}: data set {name}"
    unknown = sorted(set(entry) - set(_KEYS)) if isinstance(entry, dict) else []
    if not isinstance(entry, dict) or "annotation" not in entry or unknown:
        raise AnnotationError(
            f"{where} is {entry!r}; expected annotation and, if wanted, {', '.join(_KEYS[1:])}"
        )
    wrong = [key for key in _TEXTS if not isinstance(entry.get(key, ""), str)]
    fields = entry.get("fields", {})
    if not isinstance(fields, dict) or not all(isinstance(v, str) for v in fields.values()):
        wrong.append("fields")
    if wrong:
        raise AnnotationError(
            f"{where}: {', '.join(wrong)} must be text, fields an object of names of columns"
        )
    known = entry.get("format", formats.MESSAGES)
    if known not in formats.FORMATS:
        raise AnnotationError(
            f"{where} has the format {known!r}; there are {', '.join(formats.FORMATS)}"
        )
    ratio = entry.get("sample_ratio", 1.0)
    if not is_number(ratio) or ratio <= 0:
        raise AnnotationError(f"{where} has sample_ratio {ratio!r}; it must be a positive number")
    if ("tfds" in entry) != ("split" in entry):
        raise AnnotationError(f"{where}: tfds and split go together: the name and its split")
    prepared = _prepared(mixture, entry, where)
    return DataSet(
        name,
        _files(mixture, entry, where),
        prepared.parent if prepared else _root(mixture, entry.get("media_root", "."), where),
        float(ratio),
        known,
        fields,
        entry.get("media_suffix", ".mp4"),
        entry.get("tfds", ""),
        entry.get("split", ""),
        _overrides(entry, where),
        prepared,
    )


def _root(mixture: pathlib.Path, root: str, where: str) -> pathlib.Path:
    if media.is_remote(root):
        return epath.Path(root)
    if "://" in root:
        raise AnnotationError(
            f"{where}: media_root {root} is not read; give a local folder or an address that"
            f" begins with {', '.join(media.REMOTE)}",
            ADDRESS,
        )
    return mixture.parent / root


def _prepared(mixture: pathlib.Path, entry: dict, where: str) -> pathlib.Path | None:
    """The folder of a prepared data set; None for anything else."""
    place = _root(mixture, entry["annotation"], where)
    if entry.get("tfds") or not manifest.is_in(place):
        return None
    if not isinstance(place, pathlib.Path):
        raise AnnotationError(
            f"{where} was prepared, and is not read from afar; copy {place} to a local disk",
            ADDRESS,
        )
    told = {"media_root", "format", "fields", "media_suffix"} & set(entry)
    if told:
        raise AnnotationError(
            f"{where} was prepared, and has its media with it; take out {', '.join(sorted(told))}"
        )
    return place


def _files(mixture: pathlib.Path, entry: dict, where: str) -> tuple[pathlib.Path, ...]:
    place = _root(mixture, entry["annotation"], where)
    if entry.get("tfds"):
        return (place,)
    if manifest.is_in(place):
        return manifest.shards(place, manifest.read(place))
    if not place.is_dir():
        files = (place,)
    else:
        # Of a remote folder only what lies in it: epath does not search below.
        search = place.rglob if isinstance(place, pathlib.Path) else place.glob
        kinds = [tuple(sorted(search(f"*{suffix}"))) for suffix in SUFFIXES]
        files = next((found for found in kinds if found), ())
    if not files or not all(file.is_file() for file in files):
        raise AnnotationError(f"{where} has no annotation at {place}")
    return files


def _overrides(entry: dict, where: str) -> Overrides | None:
    if entry.get("enable_3d_rope", True) is not True:
        raise AnnotationError(
            f"{where} has enable_3d_rope {entry['enable_3d_rope']!r}; positions have three axes"
            " here, always: take the key out, and expect other positions than a run without them"
        )
    return overriding.read(entry, where)
