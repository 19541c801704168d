"""What a person watching a run sees: timed phases, and a bar with its newest numbers."""

import sys
import time
from collections.abc import Mapping

import tqdm

_start = time.monotonic()
# What the bar shows of a run's metrics and how, the most wanted first: a narrow terminal cuts off
# the end.
_SHOWN = {
    "loss/total": lambda loss: f"loss {loss:.4f}",
    "grad/norm": lambda norm: f"grad {norm:.3g}",
    "tokens/sec": lambda rate: f"{tqdm.tqdm.format_sizeof(rate)} tok/s",
    "frames/sec": lambda rate: f"{tqdm.tqdm.format_sizeof(rate)} frames/s",
    "mfu": lambda share: f"MFU {share:.0%}",
    "goodput": lambda share: f"goodput {share:.0%}",
    "data/wait_ms": lambda wait: f"wait {wait:,.0f} ms",
    "memory/device_gib": lambda used: f"device {used:.1f} GiB",
    "memory/host_gib": lambda used: f"host {used:.1f} GiB",
}


def note(text: str) -> None:
    """One line a phase, with the seconds since the start."""
    tqdm.tqdm.write(f"[{time.monotonic() - _start:7.1f} s] {text}", file=sys.stderr)


class TrainingBar:
    """A progress bar over steps; in a log file, a line now and then instead of redrawing."""

    def __init__(self, steps: int, done: int):
        interval = 0.5 if sys.stderr.isatty() else 20.0
        self._bar = tqdm.tqdm(
            total=steps,
            initial=done,
            unit="step",
            desc="train",
            dynamic_ncols=True,
            mininterval=interval,
        )

    def advance(self) -> None:
        """One step more."""
        self._bar.update()

    def show(self, numbers: Mapping[str, float]) -> None:
        """Newest numbers, shown behind the bar; tqdm itself adds the time left.

        Args:
          numbers: name -> value, as written to metrics.jsonl; what is not there is not shown.
        """
        self._bar.set_postfix_str(line(numbers), refresh=False)

    def close(self) -> None:
        self._bar.close()


def line(numbers: Mapping[str, float]) -> str:
    """The numbers of a run that are worth a look while it runs, on one line."""
    return ", ".join(form(numbers[name]) for name, form in _SHOWN.items() if name in numbers)
