"""The notice that a machine is taken away: SIGTERM, as pod schedulers send it.

One host alone hears it in its own handler. Of several, the one that is told asks the others by
JAX's preemption service to leave after the same step; that service takes SIGTERM for itself.
"""

import signal
import threading

import jax
from jax.experimental import multihost_utils

from ivx.training import progress


class Notice:
    """Listens as long as the `with` block runs; a second SIGTERM ends the process at once.

    Args:
      unit: steps that belong together; a run is left between two units.
    """

    def __init__(self, unit: int):
        self._unit, self._given, self._before = unit, False, None

    def reached(self, step: int) -> bool:
        """Whether all hosts are to leave now, before step number `step`; to be asked every step."""
        if jax.process_count() > 1 and not self._given:
            self._given = multihost_utils.reached_preemption_sync_point(step)
        return self._given and step % self._unit == 0

    def __enter__(self) -> "Notice":
        # Python hears signals in its main thread only.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(self, *error) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _hear(self, number, frame) -> None:
        del number, frame
        self._given = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        progress.note("SIGTERM: saving after this step; a second one ends the run at once")
