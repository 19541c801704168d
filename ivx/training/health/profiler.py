"""Profiles a window of steps with JAX's profiler: `--config.watch.profile=100:110`.

The trace is written to `profile` in the workdir, for TensorBoard's profile plugin, XProf or
Perfetto.
"""

import pathlib

import jax

from ivx import progress

FOLDER = "profile"


def window(text: str) -> tuple[int, int] | None:
    """Parses `first:last`: the first step and the one after the last; None if empty.

    Raises:
      ValueError: not of the form `first:last` with first < last.
    """
    if not text:
        return None
    first, last = (int(part) for part in text.split(":"))
    if not 0 <= first < last:
        raise ValueError(f"{text} contains no step")
    return first, last


class Profiler:
    """Starts and stops the trace; call `reach` before every step and `close` at the end."""

    def __init__(self, workdir: pathlib.Path, steps: tuple[int, int] | None) -> None:
        self._folder, self._steps, self._on = workdir / FOLDER, steps, False

    def reach(self, step: int) -> None:
        """Starts or stops the trace before this step."""
        if not self._steps:
            return
        first, last = self._steps
        if not self._on and first <= step < last:
            jax.profiler.start_trace(str(self._folder))
            self._on = True
        elif self._on and step >= last:
            self.close()

    def close(self) -> None:
        """Stops and writes the trace, if one is running."""
        if self._on:
            jax.profiler.stop_trace()
            self._on = False
            progress.note(f"profile of steps {self._steps[0]} to {self._steps[1]}: {self._folder}")
