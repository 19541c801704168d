"""The current phase of a run (data, step, save, evaluate, ...) and the time spent in each.

The loop enters phases; the watchdog reads the current one, the meter the totals, and the terminal
shows those that may take long.
"""

import collections
import time
from collections.abc import Callable
from typing import NamedTuple

from ivx import progress

# Phases whose length is unknown, with how they are shown; steps and validation have bars.
_WAITS = {
    "first batch": lambda: progress.waiting("the first batch"),
    "first step": lambda: progress.compiling("the training step"),
    "save": lambda: progress.waiting("saving a checkpoint"),
}


class Phase(NamedTuple):
    """A phase in progress: its name, its step, and when it began."""

    name: str
    step: int
    since: float


class Phases:
    """The current phase, and the seconds spent in earlier ones.

    Attributes:
      current: replaced atomically, so other threads may read it.
      seconds: name -> seconds of finished phases.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.seconds: collections.Counter[str] = collections.Counter()
        self.current = Phase("start", 0, clock())
        self._wait: progress.Bar | None = None

    def enter(self, name: str, step: int) -> None:
        """Ends the current phase and begins the next."""
        now = self._clock()
        self.seconds[self.current.name] += now - self.current.since
        self.current = Phase(name, step, now)
        self.close()
        if name in _WAITS:
            self._wait = _WAITS[name]()

    def close(self) -> None:
        """Ends what is shown of the current phase."""
        if self._wait is not None:
            self._wait.close()
        self._wait = None

    def age(self) -> float:
        """Seconds since the current phase began."""
        return self._clock() - self.current.since

    def share(self, name: str) -> float:
        """Fraction of the elapsed time spent in this phase."""
        age = self.age()
        total = sum(self.seconds.values()) + age
        spent = self.seconds[name] + (age if self.current.name == name else 0)
        return spent / total if total else 0.0
