"""The watchdog reports the phase and stacks of a hanging run, and ends it if configured."""

import threading

from ivx.training.health.phases import Phases
from ivx.training.health.watchdog import EXIT_CODE, Watchdog


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def wait_until_it_ends(phases: Phases, tmp_path, ends: bool) -> list[int]:
    """Runs a watchdog of 0.1 s until it ends the run, or for half a second."""
    codes, over = [], threading.Event()

    def end(code: int) -> None:
        codes.append(code)
        over.set()

    with Watchdog(phases, 0.1, ends, tmp_path, end):
        over.wait(5.0 if ends else 0.5)
    return codes


def test_phase_seconds_add_up():
    clock = Clock()
    phases = Phases(clock)
    for seconds, name in ((3, "data"), (1, "step"), (4, "save"), (2, "step")):
        clock.now += seconds
        phases.enter(name, 7)
    clock.now += 5
    assert phases.seconds == {"start": 3, "data": 1, "step": 4, "save": 2}
    assert phases.age() == 5 and phases.current.name == "step"
    assert phases.share("step") == 9 / 15


def test_hanging_phase_is_reported_with_all_stacks(tmp_path, capsys):
    phases = Phases()
    phases.enter("save", 12)
    wait = threading.Event()
    helper = threading.Thread(target=stuck_on_a_barrier, args=(wait,))
    helper.start()
    assert wait_until_it_ends(phases, tmp_path, ends=True)[0] == EXIT_CODE == 70
    wait.set()
    helper.join()
    output = capsys.readouterr().err
    assert "phase 'save' of step 12 for more than 0.1 s" in output
    dump = (tmp_path / "hang-0.txt").read_text()
    assert "phase save of step 12" in dump
    assert "stuck_on_a_barrier" in dump and "wait_until_it_ends" in dump


def test_hang_is_reported_once_and_run_continues_by_default(tmp_path):
    phases = Phases()
    phases.enter("data", 3)
    assert wait_until_it_ends(phases, tmp_path, ends=False) == []
    assert (tmp_path / "hang-0.txt").read_text().count("phase data of step 3") == 1


def test_stacks_are_printed_if_file_cannot_be_written(tmp_path, capfd):
    phases = Phases()
    phases.enter("data", 3)
    assert wait_until_it_ends(phases, tmp_path / "gone", ends=True)[0] == EXIT_CODE
    output = capfd.readouterr().err
    assert "cannot be written" in output and "wait_until_it_ends" in output


def test_first_step_has_ten_times_the_limit(tmp_path):
    """The first step compiles."""
    phases = Phases()
    phases.enter("first step", 0)
    assert wait_until_it_ends(phases, tmp_path, ends=False) == []
    assert not (tmp_path / "hang-0.txt").exists()


def stuck_on_a_barrier(wait: threading.Event) -> None:
    wait.wait(20)
