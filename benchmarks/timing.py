"""Timing on a shared machine: contestants take turns, and medians are reported.

A disturbance then affects neighbouring turns alike, so ratios are more reliable than either time.
The load before and after is printed with every result.
"""

import dataclasses
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Hashable, Mapping

from absl import flags

from ivx.errors import UserError


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of the turns of one contestant."""

    turns: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median turn."""
        return statistics.median(self.turns)

    @property
    def spread(self) -> str:
        """The shortest and the longest turn, in milliseconds."""
        bounds = (min(self.turns), max(self.turns))
        return " - ".join(f"{1e3 * turn:#.4g}" for turn in bounds) + " ms"


def take_turns(
    contestants: Mapping[Hashable, Callable[[], object]], repeats: int, pause: float = 0.2
) -> dict[Hashable, Times]:
    """Times every contestant in turn, `repeats` times, after a warm-up turn.

    A contestant returns when its work is done. The pause in seconds between turns lets the threads
    of the previous contestant sleep: those of OpenMP and XLA spin for a while.
    """
    turns = {name: [] for name in contestants}
    for repeat in range(repeats + 1):
        for name, work in contestants.items():
            time.sleep(pause)
            start = time.perf_counter()
            work()
            if repeat:
                turns[name].append(time.perf_counter() - start)
    return {name: Times(tuple(seconds)) for name, seconds in turns.items()}


def use_cores(count: int) -> int:
    """Restricts this process to `count` cores, 0 for all available, and returns their count.

    Call it before JAX initialises its devices, since the size of its thread pool depends on it.

    Raises:
      UserError: fewer cores are available.
    """
    cores = sorted(os.sched_getaffinity(0))
    if count > len(cores):
        raise UserError(
            f"--threads={count} exceeds the {len(cores)} available cores; give at most as many"
        )
    if count:
        os.sched_setaffinity(0, cores[:count])
    return count or len(cores)


def machine(packages: tuple[str, ...]) -> dict[str, str]:
    """The processor, and versions of Python and of the installed packages among `packages`."""
    facts = {"processor": _processor(), "python": platform.python_version()}
    for package in packages:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return facts


def load() -> float:
    """The load average of the last minute."""
    return round(os.getloadavg()[0], 2)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def define_flags() -> None:
    """Flags of every benchmark that times something."""
    flags.DEFINE_integer("repeats", 5, "Turns per contestant.", lower_bound=1)
    flags.DEFINE_integer("threads", 0, "Cores to use; 0 for all.", lower_bound=0)
