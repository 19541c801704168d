"""Requests to stop: SIGTERM, as pod schedulers send it before they reclaim a machine, and Ctrl-C.

A single-process run hears both itself. In a multi-process run JAX's preemption service receives
SIGTERM on one host and makes all hosts stop after the same step; Ctrl-C on one host is passed on to
it as SIGTERM.
"""

import contextlib
import os
import signal

import jax
from jax.experimental import multihost_utils

from ivx import progress, signals
from ivx.errors import Interrupted

_NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


class Notice:
    """Listens inside a `with` block; a second signal ends the process at once.

    Args:
      unit: steps that belong together; a run stops between two units only.
    """

    def __init__(self, unit: int) -> None:
        self._unit, self._heard, self._agreed = unit, 0, False
        self._listening = contextlib.ExitStack()

    def reached(self, step: int) -> bool:
        """Whether all hosts must stop before this step; a collective call, once per step."""
        if jax.process_count() == 1:
            self._agreed = bool(self._heard)
        elif not self._agreed:
            self._agreed = multihost_utils.reached_preemption_sync_point(step)
        return self._agreed and step % self._unit == 0

    def interruption(self, saved: str) -> Interrupted:
        """The exception that ends the run; its code says which signal was heard here."""
        number = self._heard or signal.SIGTERM
        by_hand = number == signal.SIGINT
        code = Interrupted.BY_HAND if by_hand else Interrupted.EXIT_CODE
        return Interrupted(f"stopped by {_NAMES[number]}: {saved}", code)

    def __enter__(self) -> "Notice":
        numbers = tuple(_NAMES) if jax.process_count() == 1 else (signal.SIGINT,)
        self._listening.enter_context(signals.heard(numbers, self._hear))
        return self

    def __exit__(self, *error: object) -> None:
        self._listening.close()

    def _hear(self, number: int) -> None:
        """Runs on the thread of the listener."""
        if self._heard:
            os._exit(128 + number)
        self._heard = number
        name = _NAMES[number]
        progress.note(f"{name}: saving after this step; a second {name} ends the run at once")
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
