"""What a run is doing right now, and how long it has done what: data, step, save, evaluate, ...

The loop says when it enters a phase; the watchdog looks at the current one, the meter at the sums.
"""

import collections
import time
from typing import NamedTuple


class Phase(NamedTuple):
    """A phase that has not ended: its name, the step it belongs to, and when it began."""

    name: str
    step: int
    since: float


class Phases:
    """The one phase that is on, and the seconds of all that were.

    Attributes:
      current: replaced as a whole, so that other threads may read it.
      seconds: name -> seconds of ended phases.
    """

    def __init__(self, clock=time.monotonic):
        self._clock = clock
        self.seconds: collections.Counter[str] = collections.Counter()
        self.current = Phase("start", 0, clock())

    def enter(self, name: str, step: int) -> None:
        """Ends the current phase and begins another."""
        now = self._clock()
        self.seconds[self.current.name] += now - self.current.since
        self.current = Phase(name, step, now)

    def age(self) -> float:
        """Seconds that the current phase has lasted."""
        return self._clock() - self.current.since

    def share(self, name: str) -> float:
        """Share of all time so far that this phase had."""
        now = self.age()
        total = sum(self.seconds.values()) + now
        own = self.seconds[name] + (now if self.current.name == name else 0)
        return own / total if total else 0.0
