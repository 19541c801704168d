"""SHA256SUMS: one line for every file of a prepared folder, in the format of sha256sum.

    <64 hexadecimal digits>  synthetic_train/00000.npz

Lines missing from SHA256SUMS itself are detected with the manifest, which lists all shards.
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


def sha256(path: pathlib.Path) -> str:
    """Returns the checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_text(checksums: Mapping[str, str]) -> str:
    """Returns the text of SHA256SUMS for checksums by path."""
    return "".join(f"{checksum}  {path}\n" for path, checksum in sorted(checksums.items()))


def faults(
    folder: pathlib.Path,
    names: Collection[str],
    threads: int = 2,
    tick: Callable[[int], object] = lambda count: None,
) -> list[Fault]:
    """Finds files of a prepared folder that are missing or changed, in the order of their paths.

    Args:
      folder: contains SHA256SUMS.
      names: the data sets to check; media and the files at the top level are always checked.
      threads: that read files.
      tick: called with the byte count of each intact file, to report progress.
    """
    try:
        lines = (folder / FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return [_fault(folder / FILE, LOST, "is missing")]
    except UnicodeDecodeError:
        return [_fault(folder / FILE, CHANGED, "is damaged: it is not text")]
    checksums, found = {}, []
    for number, line in enumerate(lines, 1):
        if match := _LINE.fullmatch(line):
            checksums[match[2]] = match[1]
        else:
            found.append(_fault(folder / FILE, CHANGED, f"is damaged in line {number}"))
    sizes = _expected_sizes(folder)
    unlisted = sorted({*manifest.TOP_LEVEL_FILES, *sizes} - checksums.keys())
    found += [_fault(folder / FILE, CHANGED, f"has no line for {path}") for path in unlisted]
    selected = [path for path in sorted(checksums) if _is_selected(path, names)]

    def compare(path: str) -> Fault | None:
        fault = _compare(folder / path, checksums[path], sizes.get(path))
        tick((folder / path).stat().st_size if fault is None else 0)
        return fault

    with futures.ThreadPoolExecutor(threads) as pool:
        return found + [fault for fault in pool.map(compare, selected) if fault]


def _expected_sizes(folder: pathlib.Path) -> dict[str, int | None]:
    """As `manifest.files`; empty if the manifest is damaged, which its checksum will reveal."""
    try:
        return manifest.files(json.loads((folder / manifest.FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _is_selected(path: str, names: Collection[str]) -> bool:
    parts = path.split("/")
    return len(parts) == 1 or parts[0] in ("media", *names)


def _compare(path: pathlib.Path, expected: str, expected_size: int | None) -> Fault | None:
    try:
        size = path.stat().st_size
        if expected_size is not None and size != expected_size:
            return _fault(path, CUT, f"has {size:,} bytes instead of {expected_size:,}")
        checksum = sha256(path)
    except FileNotFoundError:
        return _fault(path, LOST, "is missing")
    except OSError as error:
        return _fault(path, CHANGED, f"cannot be read ({error.strerror})")
    if checksum != expected:
        return _fault(path, CHANGED, f"differs from its checksum (SHA-256 {checksum[:12]}...)")
    return None


def _fault(path: pathlib.Path, cause: str, problem: str) -> Fault:
    return Fault(str(path), cause, f"{path} {problem}; {_REMEDY}")
