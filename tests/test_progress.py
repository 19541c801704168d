"""The bar of a run: one line, with what is known."""

import pytest

from ivx.training import progress

NUMBERS = {
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
WHOLE = (
    "loss 2.3457, grad 1.23e+04, 1.23M tok/s, 0.40 frames/s, MFU 41%, goodput 93%,"
    " wait 20,415 ms, device 71.3 GiB, host 1.9 GiB"
)


def bar_line(capsys, *shown) -> str:
    """The last line that a log file has of a bar."""
    bar = progress.TrainingBar(steps=8, done=2)
    bar.advance()
    bar.show(*shown)
    bar.close()
    return capsys.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]


def test_the_bar_shows_pace_efficiency_waiting_and_memory(capsys):
    line = bar_line(capsys, NUMBERS)
    assert "3/8" in line and line.endswith(f", {WHOLE}]")


@pytest.mark.parametrize("name, text", [("mfu", "MFU"), ("memory/device_gib", "device")])
def test_what_is_not_known_is_not_shown(name, text):
    """A CPU has neither a peak nor a memory of its own."""
    left = {key: value for key, value in NUMBERS.items() if key != name}
    whole, line = progress.line(NUMBERS).split(", "), progress.line(left).split(", ")
    [missing] = [part for part in whole if part not in line]
    assert missing.startswith(text) and len(line) == len(whole) - 1


def test_a_part_of_the_numbers_is_shown_as_far_as_it_goes(capsys):
    assert bar_line(capsys, {"loss/total": 1.0}).endswith(", loss 1.0000]")
