"""Progress: quick work is silent; long work shows counts, time left, and the latest metrics."""

import io
import time

import pytest

from ivx import progress
from ivx.training import metrics_line

METRICS = {
    "loss/total": 2.34567,
    "loss/token": 9.0,
    "grad/norm": 12345.6,
    "grad/visual": 7.0,
    "tokens/sec": 1234567.8,
    "frames/sec": 0.397,
    "mfu": 0.4123,
    "goodput": 0.934,
    "data/wait_ms": 20414.98,
    "memory/host_gib": 1.94,
    "memory/device_gib": 71.26,
}
FULL_LINE = (
    "loss 2.3457, grad 1.23e+04, 1.23M tok/s, 0.40 frames/s, MFU 41%, goodput 93%,"
    " wait 20,415 ms, device 71.3 GiB, host 1.9 GiB"
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was written to standard error, without the time of each line."""
    captured = capsys.readouterr()
    assert not captured.out
    return [line.partition("] ")[2] for line in captured.err.splitlines()]


def drawn(bar: progress.Bar) -> None:
    """Waits until the thread of a bar has drawn."""
    deadline = time.monotonic() + 10
    while not bar._shown:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_training_bar_shows_counts_speed_waits_and_memory_to_the_end(capsys):
    with progress.Bar(8, "train", "steps", 2, quiet=0.0) as bar:
        bar.advance()
        bar.show(metrics_line.line(METRICS))
    last = lines(capsys)[-1]
    assert last.startswith("train: 3 of 8 steps in 0 s, ") and last.endswith(f", {FULL_LINE}")


@pytest.mark.parametrize("name, text", [("mfu", "MFU"), ("memory/device_gib", "device")])
def test_missing_metric_is_not_shown(name, text):
    """A CPU has no known peak and no device memory."""
    rest = {key: value for key, value in METRICS.items() if key != name}
    full, line = metrics_line.line(METRICS).split(", "), metrics_line.line(rest).split(", ")
    [missing] = [part for part in full if part not in line]
    assert missing.startswith(text) and len(line) == len(full) - 1


@pytest.mark.parametrize("terminal", [False, True])
def test_quick_work_is_silent(capsys, monkeypatch, terminal):
    if terminal:
        monkeypatch.setattr("sys.stderr", Terminal())
    assert list(progress.track(range(3), 3, "layers", "layers")) == [0, 1, 2]
    with progress.compiling("a program"):
        pass
    assert lines(capsys) == []
    if terminal:
        import sys

        assert not sys.stderr.getvalue()


def test_long_work_shows_counts_and_time_left_in_a_log(capsys, monkeypatch):
    """The clock of the bar is moved by a minute."""
    monkeypatch.setattr(progress, "_REPEAT", 0.01)
    with progress.Bar(16, "statistics", "batches", done=4, quiet=0.01) as bar:
        drawn(bar)
        bar._began -= 60.0
        bar.advance(6)
        bar._shown = False
        drawn(bar)
    first, *_, later, last = lines(capsys)
    assert first == "statistics: 4 of 16 batches"
    assert later == "statistics: 10 of 16 batches, 01:00 left"
    assert last == "statistics: 10 of 16 batches in 60 s"


def test_bytes_are_polled_and_never_exceed_their_total(capsys):
    with progress.Bar(2_000_000, "reading", "B", quiet=0.01, poll=lambda: 3_000_000) as bar:
        drawn(bar)
    assert lines(capsys)[-1] == "reading: 2.00MB of 2.00MB in 0 s"


def test_wait_without_counts_shows_seconds(capsys, monkeypatch):
    monkeypatch.setattr(progress, "QUIET", 0.01)
    monkeypatch.setattr(progress, "_REPEAT", 0.01)
    with progress.Bar(None, "compiling the step", quiet=0.01) as bar:
        drawn(bar)
        bar._began -= 30.0
    first, *_, last = lines(capsys)
    assert first == "compiling the step" and last == "compiling the step: 30 s, done"


def test_log_of_a_long_wait_is_short(monkeypatch, capsys):
    """While nothing changes, pauses double."""
    monkeypatch.setattr(progress, "_REPEAT", 0.01)
    with progress.compiling("a program") as bar:
        bar._ended.wait(0)
    with progress.Bar(None, "compiling", quiet=0.01, hint=", once") as bar:
        time.sleep(0.4)
    # A phase that another test left open may speak too.
    first, *later = [line for line in lines(capsys) if line.startswith("compiling")]
    assert first == "compiling, once" and later[-1] == "compiling: 0 s, done"
    assert len(later) <= 8


def test_terminal_redraws_one_line_with_time_left(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with progress.Bar(8, "layers", "layers", quiet=0.01) as bar:
        bar._began -= 6.0
        bar.advance(2)
        drawn(bar)
    text = terminal.getvalue()
    assert "2/8" in text and "00:06<00:1" in text and text.count("\n") == 1


def test_failing_work_ends_its_bar(capsys):
    with pytest.raises(ValueError, match="damaged"):
        for _ in progress.track(range(3), 3, "reading", "files"):
            raise ValueError("damaged")
    with pytest.raises(ValueError, match="damaged"), progress.waiting("reading") as bar:
        raise ValueError("damaged")
    assert bar._ended.is_set() and lines(capsys) == []
