"""A window of steps that JAX's profiler watches: `--config.train.profile=100:110`.

The trace goes to `profile` in the workdir, for TensorBoard's profile plugin, XProf or Perfetto.
"""

import pathlib

import jax

from ivx.training import progress

FOLDER = "profile"


def window(text: str) -> tuple[int, int] | None:
    """First step and the one after the last; None where none are to be watched.

    Raises:
      ValueError: it is no `first:last` of growing numbers.
    """
    if not text:
        return None
    first, last = (int(part) for part in text.split(":"))
    if not 0 <= first < last:
        raise ValueError(f"{text} holds no step")
    return first, last


class Profiler:
    """To be told of every step; closed at the end of the run."""

    def __init__(self, workdir: pathlib.Path, steps: tuple[int, int] | None):
        self._folder, self._steps, self._on = workdir / FOLDER, steps, False

    def reach(self, step: int) -> None:
        """Begins or ends the trace before this step."""
        if not self._steps:
            return
        first, last = self._steps
        if not self._on and first <= step < last:
            jax.profiler.start_trace(str(self._folder))
            self._on = True
        elif self._on and step >= last:
            self.close()

    def close(self) -> None:
        """Writes what was traced."""
        if self._on:
            jax.profiler.stop_trace()
            self._on = False
            progress.note(f"profile of steps {self._steps[0]} to {self._steps[1]}: {self._folder}")
