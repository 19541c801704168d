"""A watchdog thread: when a phase takes too long, it logs the phase and dumps all stacks.

On a pod, one host that waits for data blocks all others, which then hang in a step. The phases that
their watchdogs log tell which host is the cause.
"""

import faulthandler
import os
import pathlib
import sys
import threading
from collections.abc import Callable

import jax

from ivx import progress
from ivx.training.health.phases import Phase, Phases

# Exit code of a run that the watchdog ended: EX_SOFTWARE of sysexits.h.
EXIT_CODE = 70
# The first step compiles, which takes many minutes at 8B; so does the first batch of a stage that
# samples answers; and a restore reads all parameters.
_SLOW = ("start", "first batch", "first step")
_SLOW_FACTOR = 10
# Timeout in seconds for writing the stacks.
_WRITE_TIMEOUT = 30.0


class Watchdog:
    """Monitors the phases inside a `with` block.

    Args:
      phases: of the loop.
      limit: seconds a phase may last, ten times as many for the start and the first step; 0
        disables the watchdog.
      ends: whether to end a hanging run with `EXIT_CODE` after the stacks are written.
      folder: where `hang-<process>.txt` is written.
      end: terminates the process without waiting for threads.
    """

    def __init__(
        self,
        phases: Phases,
        limit: float,
        ends: bool,
        folder: pathlib.Path,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self._phases, self._limit, self._ends, self._end = phases, limit, ends, end
        self._path = folder / f"hang-{jax.process_index()}.txt"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._limit:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        reported = None
        while not self._over.wait(min(self._limit / 4, 10.0)):
            phase = self._phases.current
            limit = self._limit * (_SLOW_FACTOR if phase.name in _SLOW else 1)
            if phase is reported or self._phases.age() < limit:
                continue
            reported = phase
            progress.note(
                f"HANGS: process {jax.process_index()} has been in phase {phase.name!r} of step"
                f" {phase.step} for more than {limit:g} s; writing the stacks of all threads to"
                f" {self._path}"
            )
            # In a thread with a timeout, since the disk itself may hang.
            writer = threading.Thread(target=self._write, args=(phase, limit), daemon=True)
            writer.start()
            writer.join(_WRITE_TIMEOUT)
            if self._ends:
                progress.note(f"the watchdog ends the run with exit code {EXIT_CODE}")
                self._end(EXIT_CODE)

    def _write(self, phase: Phase, limit: float) -> None:
        """Appends the stacks to the file, or prints them if it cannot be written."""
        try:
            with self._path.open("a") as file:
                file.write(f"phase {phase.name} of step {phase.step}, over {limit:g} seconds\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError as error:
            progress.note(f"{self._path} cannot be written ({error}); the stacks:")
            faulthandler.dump_traceback(sys.__stderr__, all_threads=True)
