"""Progress on the terminal: timestamped notes, and a progress bar with the latest metrics.

The bar is tqdm's; `clu.periodic_actions.ReportProgress` needs TensorFlow, which ivx does not
install.
"""

import sys
import time
from collections.abc import Mapping

import tqdm

_start = time.monotonic()
# Metrics of the bar and their formats, most important first: a narrow terminal cuts off the end.
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
    """Prints one line, prefixed with the seconds since the start."""
    tqdm.tqdm.write(f"[{time.monotonic() - _start:7.1f} s] {text}", file=sys.stderr)


class TrainingBar:
    """A progress bar over steps; in a log file it prints a line every 20 s at most."""

    def __init__(self, steps: int, done: int) -> None:
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
        """Counts one step."""
        self._bar.update()

    def show(self, metrics: Mapping[str, float]) -> None:
        """Shows the latest metrics behind the bar; tqdm adds the remaining time.

        Args:
          metrics: name -> value, as written to metrics.jsonl; absent names are not shown.
        """
        self._bar.set_postfix_str(line(metrics), refresh=False)

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()


def line(metrics: Mapping[str, float]) -> str:
    """The most useful metrics of a run on one line."""
    return ", ".join(form(metrics[name]) for name, form in _SHOWN.items() if name in metrics)
