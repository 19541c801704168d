"""Timing on a machine that others use too: contestants take turns, and medians count.

What disturbs one turn then disturbs its neighbours, so that quotients are worth more than either
number. The load before and after is printed with every result.
"""

import dataclasses
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping

from ivx.errors import UserError


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of the turns of one contestant."""

    turns: tuple[float, ...]

    @property
    def median(self) -> float:
        """Their median."""
        return statistics.median(self.turns)

    @property
    def spread(self) -> str:
        """The shortest and the longest, in milliseconds."""
        return (
            " - ".join(f"{1e3 * turn:#.4g}" for turn in (min(self.turns), max(self.turns))) + " ms"
        )


def take_turns(
    contestants: Mapping[str, Callable[[], None]], repeats: int, pause: float = 0.2
) -> dict[str, Times]:
    """Times each in turn, `repeats` times, after a turn that does not count.

    A contestant returns when its work is done. A pause of some seconds between turns lets the
    threads of the one before go to sleep: those of OpenMP and of XLA wait awake for a while.
    """
    turns = {name: [] for name in contestants}
    for number in range(repeats + 1):
        for name, work in contestants.items():
            time.sleep(pause)
            start = time.perf_counter()
            work()
            if number:
                turns[name].append(time.perf_counter() - start)
    return {name: Times(tuple(found)) for name, found in turns.items()}


def use_cores(count: int) -> int:
    """Keeps this process to `count` cores, 0 for all that it may use; returns how many these are.

    To be called before JAX looks for devices: the size of its pool of threads follows.

    Raises:
      UserError: there are not so many.
    """
    cores = sorted(os.sched_getaffinity(0))
    if count > len(cores):
        raise UserError(f"--threads={count}: there are {len(cores)} cores; give at most as many")
    if count:
        os.sched_setaffinity(0, cores[:count])
    return count or len(cores)


def machine(packages: tuple[str, ...]) -> dict[str, str]:
    """The processor, and versions of Python and of those packages that are installed."""
    found = {"processor": _processor(), "python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def load() -> float:
    """Mean number of processes that ran or waited in the last minute."""
    return round(os.getloadavg()[0], 2)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
