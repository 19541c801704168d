"""The progress bar: one line with the available metrics."""

import pytest

from ivx.training import progress

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


def bar_line(capsys, *shown) -> str:
    """The last line that a bar writes to a log file."""
    bar = progress.TrainingBar(steps=8, done=2)
    bar.advance()
    bar.show(*shown)
    bar.close()
    return capsys.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]


def test_bar_shows_speed_efficiency_waits_and_memory(capsys):
    line = bar_line(capsys, METRICS)
    assert "3/8" in line and line.endswith(f", {FULL_LINE}]")


@pytest.mark.parametrize("name, text", [("mfu", "MFU"), ("memory/device_gib", "device")])
def test_missing_metric_is_not_shown(name, text):
    """A CPU has no known peak and no device memory."""
    rest = {key: value for key, value in METRICS.items() if key != name}
    full, line = progress.line(METRICS).split(", "), progress.line(rest).split(", ")
    [missing] = [part for part in full if part not in line]
    assert missing.startswith(text) and len(line) == len(full) - 1


def test_bar_shows_loss_alone(capsys):
    assert bar_line(capsys, {"loss/total": 1.0}).endswith(", loss 1.0000]")
