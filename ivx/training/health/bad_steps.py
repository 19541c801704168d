"""Bad steps: non-finite gradients and loss spikes.

    a non-finite step                    changes nothing (`ivx.training.step`) and is recorded
    `rollback_after` consecutive ones    the run returns to its last checkpoint, since the hardware
                                         may have been at fault; if it happens at the same place
                                         again, the run ends
    a loss spike                         is recorded:  loss > median + spike * 1.48 MAD  over the
                                         last 64 losses (1.48 MAD estimates a normal distribution's
                                         standard deviation)

Records go to `spikes.jsonl` (`spikes-<n>.jsonl` on other hosts), with the sample ids of this host's
share of the batch. A step that is repeated after a rollback or restart is recorded again.
"""

import collections
import json
import math
import pathlib
import statistics
from typing import NoReturn

import jax

from ivx import progress
from ivx.errors import UserError

FILE = "spikes.jsonl"
# Number of losses in the median, and the minimum for a comparison.
_WINDOW, _MIN_LOSSES = 64, 16
# Minimum deviation as a fraction of the median: a constant loss has MAD 0.
_MIN_DEVIATION = 0.01


class RollBack(Exception):
    """The run must return to its last checkpoint."""


class BadSteps:
    """Inspects the metrics of every step.

    Args:
      workdir: of the run.
      rollback_after: consecutive non-finite steps before a rollback; 0 never rolls back.
      spike: threshold of a loss spike, in typical deviations; 0 records no spikes.
    """

    def __init__(self, workdir: pathlib.Path, rollback_after: int, spike: float) -> None:
        index = jax.process_index()
        self._path = workdir / (f"spikes-{index}.jsonl" if index else FILE)
        self._rollback_after, self._spike = rollback_after, spike
        self._last_rollback = -1
        self.restart()

    def restart(self) -> None:
        """Forgets all steps, but not where the last rollback began."""
        self._losses = collections.deque(maxlen=_WINDOW)
        self._consecutive, self._pending = 0, None

    def add(self, step: int, metrics: dict, samples: tuple[str, ...]) -> None:
        """Queues a step and inspects the one before, so devices never wait for the host.

        Raises:
          RollBack, UserError: as `see`.
        """
        self.catch_up()
        self._pending = (step, metrics, samples)

    def catch_up(self) -> None:
        """Inspects the queued step; blocks until it is computed.

        Raises:
          RollBack, UserError: as `see`.
        """
        pending, self._pending = self._pending, None
        if pending:
            self.see(*pending)

    def sound(self) -> bool:
        """Whether a checkpoint now could be rolled back to: the last step was finite."""
        return not (self._rollback_after and self._consecutive)

    def see(self, step: int, metrics: dict, samples: tuple[str, ...]) -> None:
        """Inspects a computed step.

        Args:
          step: its index, from 0.
          metrics: of the step, with `loss/total` and `grad/norm`.
          samples: ids of this host's samples.

        Raises:
          RollBack: too many consecutive steps had non-finite gradients.
          UserError: it happened again at the place of the last rollback.
        """
        loss, norm = float(metrics["loss/total"]), float(metrics["grad/norm"])
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._consecutive += 1
            self._record("not finite", step, loss, norm, samples)
            if self._rollback_after and self._consecutive >= self._rollback_after:
                self._roll_back(step - self._consecutive + 1)
            return
        self._consecutive = 0
        if self._spike and len(self._losses) >= _MIN_LOSSES:
            median = statistics.median(self._losses)
            deviation = 1.4826 * statistics.median(abs(past - median) for past in self._losses)
            deviation = max(deviation, _MIN_DEVIATION * abs(median))
            if loss > median + self._spike * deviation:
                self._record("jump", step, loss, norm, samples, median)
        self._losses.append(loss)

    def _roll_back(self, first: int) -> NoReturn:
        reason = (
            f"{self._consecutive} consecutive steps, starting at step {first}, had no finite"
            " gradient"
        )
        if first <= self._last_rollback:
            raise UserError(
                f"{reason}, as before the last rollback; {self._path} lists their samples:"
                " check them, lower optim.learning_rate or optim.clip, or restart from an earlier"
                " checkpoint"
            )
        self._last_rollback = first
        raise RollBack(reason)

    def _record(
        self,
        kind: str,
        step: int,
        loss: float,
        norm: float,
        samples: tuple[str, ...],
        median: float | None = None,
    ) -> None:
        values = {"loss/total": loss, "grad/norm": norm, "loss/median": median}
        # JSON has no NaN.
        printable = {
            name: value if math.isfinite(value) else str(value)
            for name, value in values.items()
            if value is not None
        }
        with self._path.open("a") as file:
            row = {"step": step, "kind": kind} | printable | {"samples": list(samples)}
            file.write(json.dumps(row) + "\n")
        progress.note(
            f"step {step}: {kind}: loss {loss:.4g}, gradient norm {norm:.4g}; see {self._path}"
        )
