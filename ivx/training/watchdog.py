"""A thread that notices when a run hangs: it names the phase, and writes the stacks of all threads.

On a pod one host that waits for data holds up all others, which then hang in a step: the phases
that their watchdogs name tell the one from the others.
"""

import faulthandler
import os
import pathlib
import sys
import threading
from collections.abc import Callable

import jax

from ivx.training import progress
from ivx.training.phases import Phase, Phases

# Of a run that hung and was ended: EX_SOFTWARE of sysexits.h.
EXIT_CODE = 70
# The first step compiles, at 8B for many minutes, as the first batch does where answers are drawn;
# and a restore reads all parameters.
_SLOW = ("start", "first batch", "first step")
_PATIENCE = 10
# Seconds that writing the stacks may take.
_WRITING = 30.0


class Watchdog:
    """Looks at the phases as long as the `with` block runs.

    Args:
      phases: of the loop.
      limit: seconds a phase may last, ten times as many for the start and the first step; 0: never
        looks.
      ends: whether a run that hangs is ended, with `EXIT_CODE`, after its stacks are written.
      folder: where `hang-<process>.txt` goes.
      end: how the process is ended; no thread could be waited for.
    """

    def __init__(
        self,
        phases: Phases,
        limit: float,
        ends: bool,
        folder: pathlib.Path,
        end: Callable[[int], None] = os._exit,
    ):
        self._phases, self._limit, self._ends, self._end = phases, limit, ends, end
        self._path = folder / f"hang-{jax.process_index()}.txt"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._limit:
            self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        told = None
        while not self._over.wait(min(self._limit / 4, 10.0)):
            phase = self._phases.current
            limit = self._limit * (_PATIENCE if phase.name in _SLOW else 1)
            if phase is told or self._phases.age() < limit:
                continue
            told = phase
            progress.note(
                f"HANGS: process {jax.process_index()} has been in phase {phase.name!r} of step"
                f" {phase.step} for more than {limit:g} s; the stacks of all threads go to"
                f" {self._path}"
            )
            # What hangs may be the disk that they go to.
            writer = threading.Thread(target=self._write, args=(phase, limit), daemon=True)
            writer.start()
            writer.join(_WRITING)
            if self._ends:
                progress.note(f"the watchdog ends the run with code {EXIT_CODE}")
                self._end(EXIT_CODE)

    def _write(self, phase: Phase, limit: float) -> None:
        """The stacks go to the file, or where messages go if it cannot be written."""
        try:
            with self._path.open("a") as file:
                file.write(f"phase {phase.name} of step {phase.step}, {limit:g} seconds over\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError as error:
            progress.note(f"{self._path} cannot be written ({error}); the stacks:")
            faulthandler.dump_traceback(sys.__stderr__, all_threads=True)
