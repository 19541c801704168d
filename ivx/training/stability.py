"""Steps that go wrong: gradients that are not finite, in a row, and losses that jump.

    a step without a finite gradient    changes nothing (`ivx.training.state`), and is recorded
    `rollback_after` of them in a row   the run goes back to its last checkpoint: the machine may
                                        have been at fault; at the same place again, it ends
    a loss far above what it was        is recorded:  loss > median + spike * 1.48 MAD  of the last
                                        64, which for normal deviations is `spike` of them

What is recorded stands in `spikes.jsonl` (of other hosts than the first in `spikes-<n>.jsonl`) with
the ids of the samples of this host's share of the batch. A step that runs again after a rollback or
restart is recorded again.
"""

import collections
import json
import math
import pathlib
import statistics

import jax

from ivx.errors import UserError
from ivx.training import progress

FILE = "spikes.jsonl"
# Losses that the median is taken of, and how many there have to be.
_WINDOW, _FEWEST = 64, 16
# A deviation below this share of the median is none: a loss that stands still has MAD 0.
_FLOOR = 0.01


class RollBack(Exception):
    """The run is to go on from its last checkpoint."""


class Stability:
    """Looks at the metrics of every step.

    Args:
      workdir: of the run.
      rollback_after: steps in a row; 0 never goes back.
      spike: how far a loss has to jump, in typical deviations; 0 records no jumps.
    """

    def __init__(self, workdir: pathlib.Path, rollback_after: int, spike: float):
        index = jax.process_index()
        self._path = workdir / (f"spikes-{index}.jsonl" if index else FILE)
        self._rollback_after, self._spike = rollback_after, spike
        self._came_back_from = -1
        self.restart()

    def restart(self) -> None:
        """Forgets the steps seen so far, but not where they led."""
        self._losses = collections.deque(maxlen=_WINDOW)
        self._row, self._pending = 0, None

    def add(self, step: int, metrics: dict, samples: tuple[str, ...]) -> None:
        """Takes a step that is on its way and looks at the one before: devices never wait.

        Raises:
          RollBack, UserError: as `see`.
        """
        self.catch_up()
        self._pending = (step, metrics, samples)

    def catch_up(self) -> None:
        """Looks at the step that was added last; waits for it.

        Raises:
          RollBack, UserError: as `see`.
        """
        pending, self._pending = self._pending, None
        if pending:
            self.see(*pending)

    def sound(self) -> bool:
        """Whether a checkpoint is one to go back to: the last step seen had a finite gradient."""
        return not (self._rollback_after and self._row)

    def see(self, step: int, metrics: dict, samples: tuple[str, ...]) -> None:
        """Takes note of a step that was computed.

        Args:
          step: its number, from 0.
          metrics: of the step: `loss/total` and `grad/norm`.
          samples: ids of what this host gave to it.

        Raises:
          RollBack: too many steps in a row had no finite gradient.
          UserError: so they had, at the same place as before.
        """
        loss, norm = float(metrics["loss/total"]), float(metrics["grad/norm"])
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._row += 1
            self._record("not finite", step, loss, norm, samples)
            if self._rollback_after and self._row >= self._rollback_after:
                self._go_back(step - self._row + 1)
            return
        self._row = 0
        if self._spike and len(self._losses) >= _FEWEST:
            median = statistics.median(self._losses)
            deviation = 1.4826 * statistics.median(abs(one - median) for one in self._losses)
            deviation = max(deviation, _FLOOR * abs(median))
            if loss > median + self._spike * deviation:
                self._record("jump", step, loss, norm, samples, median)
        self._losses.append(loss)

    def _go_back(self, first: int) -> None:
        row = f"{self._row} steps in a row, from step {first} on, had no finite gradient"
        if first <= self._came_back_from:
            raise UserError(
                f"{row}, and so it was before the run went back to its last checkpoint;"
                f" {self._path} names the samples: look at them, lower optim.learning_rate or"
                " optim.clip, or begin from an earlier checkpoint"
            )
        self._came_back_from = first
        raise RollBack(row)

    def _record(self, kind, step, loss, norm, samples, median: float | None = None) -> None:
        # JSON has no NaN.
        numbers = {"loss/total": loss, "grad/norm": norm, "loss/median": median}
        told = {
            name: value if math.isfinite(value) else str(value)
            for name, value in numbers.items()
            if value is not None
        }
        with self._path.open("a") as file:
            row = {"step": step, "kind": kind} | told | {"samples": list(samples)}
            file.write(json.dumps(row) + "\n")
        progress.note(
            f"step {step}: {kind}: loss {loss:.4g}, gradient {norm:.4g}; see {self._path}"
        )
