"""Preemption: SIGTERM, as pod schedulers send it before they reclaim a machine.

A single-process run handles the signal itself. In a multi-process run JAX's preemption service
receives SIGTERM on one host and makes all hosts stop after the same step.
"""

import signal
import threading
import types

import jax
from jax.experimental import multihost_utils

from ivx.training import progress


class Notice:
    """Listens for SIGTERM inside a `with` block; a second SIGTERM ends the process at once.

    Args:
      unit: steps that belong together; a run stops between two units only.
    """

    def __init__(self, unit: int) -> None:
        self._unit, self._received, self._old_handler = unit, False, None

    def reached(self, step: int) -> bool:
        """Whether all hosts must stop before this step; a collective call, once per step."""
        if jax.process_count() > 1 and not self._received:
            self._received = multihost_utils.reached_preemption_sync_point(step)
        return self._received and step % self._unit == 0

    def __enter__(self) -> "Notice":
        # Python allows signal handlers in the main thread only.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._old_handler = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        if self._old_handler is not None:
            signal.signal(signal.SIGTERM, self._old_handler)

    def _handle(self, number: int, frame: types.FrameType | None) -> None:
        del number, frame
        self._received = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        progress.note("SIGTERM: saving after this step; a second SIGTERM ends the run at once")
