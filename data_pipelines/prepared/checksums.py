"""SHA256SUMS: a line for every file of a prepared folder, as sha256sum writes and checks them.

    <64 hexadecimal digits>  synthetic_train/00000.npz

What the file itself has lost is found by the manifest, which names all shards there are.
"""

import hashlib
import json
import pathlib
import re
from collections.abc import Callable, Collection, Mapping
from concurrent import futures

from data_pipelines.annotation_error import CHANGED, CUT, LOST, Fault
from data_pipelines.prepared import manifest

FILE = "SHA256SUMS"

_LINE = re.compile(r"([0-9a-f]{64})  (\w[\w.-]*(?:/\w[\w.-]*)?)")
_REMEDY = (
    "copy it again from where it was prepared, or delete it and run the same `ivx data prepare`"
    " again"
)


def of(path: pathlib.Path) -> str:
    """The checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text(sums: Mapping[str, str]) -> str:
    """The contents of the file, from checksums by path."""
    return "".join(f"{checksum}  {path}\n" for path, checksum in sorted(sums.items()))


def faults(
    folder: pathlib.Path,
    names: Collection[str],
    threads: int = 2,
    tick: Callable[[int], None] = lambda count: None,
) -> list[Fault]:
    """What in a prepared folder is not as it was written, in the order of names.

    Args:
      folder: that has SHA256SUMS.
      names: of the data sets that matter; media and the files of the whole always do.
      threads: that read.
      tick: called with the bytes of each file that was read, to show that it goes on.
    """
    try:
        lines = (folder / FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return [_fault(folder / FILE, LOST, "is missing")]
    except UnicodeDecodeError:
        return [_fault(folder / FILE, CHANGED, "is damaged: it is no text")]
    sums, found = {}, []
    for number, line in enumerate(lines, 1):
        if match := _LINE.fullmatch(line):
            sums[match[2]] = match[1]
        else:
            found.append(_fault(folder / FILE, CHANGED, f"is damaged in line {number}"))
    sizes = _sizes(folder)
    unlisted = sorted({*manifest.OWN_FILES, *sizes} - sums.keys())
    found += [_fault(folder / FILE, CHANGED, f"has lost the line of {path}") for path in unlisted]
    wanted = [path for path in sorted(sums) if _matters(path, names)]

    def compare(path: str) -> Fault | None:
        fault = _compare(folder / path, sums[path], sizes.get(path))
        tick((folder / path).stat().st_size if fault is None else 0)
        return fault

    with futures.ThreadPoolExecutor(threads) as pool:
        return found + [fault for fault in pool.map(compare, wanted) if fault]


def _sizes(folder: pathlib.Path) -> dict[str, int | None]:
    """As `manifest.files`; empty if the manifest is damaged, which its checksum will show."""
    try:
        return manifest.files(json.loads((folder / manifest.FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _matters(path: str, names: Collection[str]) -> bool:
    parts = path.split("/")
    return len(parts) == 1 or parts[0] in ("media", *names)


def _compare(path: pathlib.Path, checksum: str, size: int | None) -> Fault | None:
    try:
        there = path.stat().st_size
        if size is not None and there != size:
            return _fault(path, CUT, f"has {there:,} bytes of {size:,}")
        found = of(path)
    except FileNotFoundError:
        return _fault(path, LOST, "is missing")
    except OSError as error:
        return _fault(path, CHANGED, f"cannot be read ({error.strerror})")
    if found != checksum:
        return _fault(path, CHANGED, f"is not as it was written (SHA-256 {found[:12]}...)")
    return None


def _fault(path: pathlib.Path, cause: str, what: str) -> Fault:
    return Fault(str(path), cause, f"{path} {what}; {_REMEDY}")
