"""What a person watching a run sees: timed phases, a bar with speed, data wait and time left."""

import sys
import time

import tqdm

_start = time.monotonic()


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

    def show(self, loss: float, tokens_per_second: float, wait_ms: float) -> None:
        """Newest numbers, shown behind the bar; tqdm itself adds the time left."""
        self._bar.set_postfix_str(
            f"loss {loss:.4f}, {tokens_per_second:,.0f} tokens/s, data wait {wait_ms:.0f} ms",
            refresh=False,
        )

    def close(self) -> None:
        self._bar.close()
