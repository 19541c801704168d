"""Progress on standard error: notes, bars with counts and time left, and waits of unknown length.

    note(text)                          one line, at once
    track(items, total, what, unit)     a bar over items
    Bar(total, what, unit)              a bar that the caller advances
    waiting(what), compiling(what)      a wait that has no counts, with the seconds so far

Bars and waits show nothing in their first two seconds, so quick work is silent. On a terminal they
redraw one line; in a log file they add a line every ten seconds, fewer while nothing changes.
Standard output is left alone, so `--json` and pipes are not affected.

Drawing is tqdm's; `clu.periodic_actions.ReportProgress` needs TensorFlow, which ivx does not
install.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import tqdm

Item = TypeVar("Item")
# Seconds before anything is shown, and between two drawings on a terminal and in a log file.
QUIET = 2.0
_REDRAW, _REPEAT = 0.5, 10.0
# Longest pause between two lines of a log file while nothing changes.
_LONGEST = 60.0
_start = time.monotonic()


def note(text: str) -> None:
    """Prints one line, prefixed with the seconds since the start."""
    tqdm.tqdm.write(f"[{time.monotonic() - _start:7.1f} s] {text}", file=sys.stderr)


class Bar:
    """Counts of a piece of work and its time left; a context manager.

    A thread draws, so that time goes on in a long item and counting costs nothing.

    Args:
      total: of the counts; None for a wait without counts.
      what: names the work.
      unit: of the counts, in the plural; "B" for bytes.
      done: count at the start, of an earlier run.
      quiet: seconds before the bar is first shown; with 0 its end is shown in any case.
      poll: returns the count; None if the caller advances the bar.
      hint: shown with the first line of a wait.
    """

    def __init__(
        self,
        total: int | None,
        what: str,
        unit: str = "",
        done: int = 0,
        quiet: float = QUIET,
        poll: Callable[[], int] | None = None,
        hint: str = "",
    ) -> None:
        self._total, self._what, self._unit, self._first = total, what, unit, done
        self._count, self._poll, self._suffix, self._hint = done, poll, "", hint
        self._quiet, self._shown = quiet, False
        self._bar: tqdm.tqdm | None = None
        self._began, self._ended = time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._draw_until_ended, daemon=True)
        self._thread.start()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def advance(self, count: int = 1) -> None:
        """Adds to the count."""
        self._count += count

    def show(self, suffix: str) -> None:
        """Shows a text behind the bar from now on."""
        self._suffix = suffix

    def close(self) -> None:
        """Ends the bar; what it showed last stays."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._thread.join()
        if self._shown or not self._quiet:
            self._draw()
        if self._bar is not None:
            self._bar.close()

    def _draw_until_ended(self) -> None:
        pause, drawn = self._quiet, None
        while not self._ended.wait(pause):
            self._draw()
            same, drawn = drawn == self._count, self._count
            pause = min(2 * pause, _LONGEST) if same else _REPEAT
            if sys.stderr.isatty():
                pause = _REDRAW

    def _draw(self) -> None:
        if self._poll is not None:
            self._count = min(max(self._first, self._poll()), self._total or sys.maxsize)
        if sys.stderr.isatty():
            self._redraw()
        else:
            note(self._line())
        self._shown = True

    def _redraw(self) -> None:
        """Draws over the line of this bar on a terminal."""
        if self._bar is None:
            self._bar = tqdm.tqdm(
                total=self._total,
                initial=self._first,
                desc=f"{self._what}{self._hint}",
                unit=self._unit if self._unit == "B" else f" {self._unit}",
                unit_scale=self._unit == "B",
                dynamic_ncols=True,
                bar_format=None if self._total is not None else "{desc}: {elapsed}",
                file=sys.stderr,
            )
            self._bar.start_t -= time.monotonic() - self._began
        self._bar.n = self._count
        self._bar.set_postfix_str(self._suffix, refresh=False)
        self._bar.refresh()

    def _line(self) -> str:
        """The state as one line of a log file."""
        seconds = time.monotonic() - self._began
        if self._total is None:
            if not self._shown:
                return f"{self._what}{self._hint}"
            return f"{self._what}: {seconds:.0f} s{', done' if self._ended.is_set() else ''}"
        counts = f"{self._form(self._count)} of {self._form(self._total)}"
        line = f"{self._what}: {counts}{'' if self._unit in ('', 'B') else f' {self._unit}'}"
        if self._ended.is_set():
            line += f" in {seconds:.0f} s"
        elif self._count > self._first:
            left = seconds / (self._count - self._first) * (self._total - self._count)
            line += f", {tqdm.tqdm.format_interval(left)} left"
        return f"{line}{', ' if self._suffix else ''}{self._suffix}"

    def _form(self, count: int) -> str:
        return tqdm.tqdm.format_sizeof(count, "B") if self._unit == "B" else f"{count:,}"


def track(
    items: Iterable[Item], total: int | None, what: str, unit: str, done: int = 0
) -> Iterator[Item]:
    """The items; a bar counts those that the caller has finished."""
    with Bar(total, what, unit, done) as bar:
        for item in items:
            yield item
            bar.advance()


def waiting(what: str) -> Bar:
    """A context for work without counts."""
    return Bar(None, what)


def compiling(what: str) -> Bar:
    """A context for the first call of a compiled function."""
    hint = ", once: about 10 s for a small model, minutes for a large one"
    return Bar(None, f"compiling {what}", hint=hint)
