"""Runs a command in a process of its own and measures its memory and time.

The memory of a process and of all that it starts is read several times a second. What counts is
memory that cannot be taken back: anonymous and shared pages. Pages of files that are read through a
mapping count as resident, but the kernel drops them when it needs room; they are told apart.
"""

import dataclasses
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence

_PAUSE = 0.1
_ROOT = pathlib.Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished command.

    Attributes:
      code: exit code.
      seconds: wall time.
      peak: bytes of anonymous and shared memory of the process tree, the largest that was seen.
      resident: the same with mapped files; for the first process the exact peak of the kernel.
      log: the end of its output.
    """

    code: int
    seconds: float
    peak: int
    resident: int
    log: str


def run(command: Sequence[str], log: pathlib.Path) -> Run:
    """Runs a command to its end; both of its outputs go to the file `log`."""
    environment = os.environ | {"PYTHONPATH": str(_ROOT), "HF_HUB_OFFLINE": "1"}
    start, peak, resident = time.monotonic(), 0, 0
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=_ROOT
        )
        try:
            while process.poll() is None:
                held, whole = _memory(process.pid)
                peak, resident = max(peak, held), max(resident, whole)
                time.sleep(_PAUSE)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    seconds = time.monotonic() - start
    return Run(process.returncode, seconds, peak, resident, log.read_text()[-4000:])


def ivx(*arguments: str) -> list[str]:
    """The command line of `ivx`, with the trial geometry among its presets."""
    program = (
        "import sys; from benchmarks.real_size import geometry; geometry.register();"
        " from ivx import __main__; __main__.main()"
    )
    return [sys.executable, "-c", program, *arguments]


def _memory(root: int) -> tuple[int, int]:
    """Bytes of a process tree: anonymous and shared pages, and all resident pages."""
    held, resident = 0, 0
    for pid in _tree(root):
        try:
            lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:  # it has ended
            continue
        sizes = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith(" kB")}
        held += 1024 * (int(sizes.get("RssAnon", 0)) + int(sizes.get("RssShmem", 0)))
        key = "VmHWM" if pid == root else "VmRSS"
        resident += 1024 * int(sizes.get(key, 0))
    return held, resident


def _tree(root: int) -> list[int]:
    """A process and all below it."""
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        try:
            text = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
        except OSError:
            continue
        waiting += map(int, text.split())
    return found
