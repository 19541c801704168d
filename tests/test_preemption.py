"""SIGTERM: the run saves, leaves with a code of its own, and goes on to the same bits."""

import os
import signal
import time

import pytest

from ivx.errors import Interrupted
from ivx.training import preemption
from ivx.training.writers import read_metrics
from tests import test_resume


def test_a_notice_is_heard_between_two_units():
    before = signal.getsignal(signal.SIGTERM)
    with preemption.Notice(unit=4) as notice:
        assert not notice.reached(4)
        os.kill(os.getpid(), signal.SIGTERM)
        assert [step for step in range(5, 13) if notice.reached(step)] == [8, 12]
        # The next one would end the process.
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.slow
def test_a_run_that_is_told_to_end_saves_and_goes_on(data_folder, tmp_path):
    """Stopped between two of its regular checkpoints, which would have been 3 steps apart."""
    whole, workdir = tmp_path / "whole", tmp_path / "run"
    expected = test_resume.finish(test_resume.start(whole, data_folder))
    command = test_resume.start(workdir, data_folder)
    metrics = workdir / "metrics.jsonl"
    while not (metrics.exists() and '"step": 4' in metrics.read_text()):
        assert command.exitcode is None, command.finish().stderr
        time.sleep(0.02)
    os.kill(command.pid, signal.SIGTERM)
    ended = command.finish(200)
    said = ended.stderr
    assert ended.returncode == Interrupted.EXIT_CODE == 75, said
    [sentence] = [line for line in said.splitlines() if line.startswith("ivx: ")]
    saved = int(sentence.split("saved step ")[1].split()[0])
    assert "the same command goes on from there" in sentence and "Traceback" not in said
    assert (workdir / "checkpoints" / str(saved)).is_dir() and saved < 12
    assert test_resume.finish(test_resume.start(workdir, data_folder))["loss"] == expected["loss"]

    def losses(folder):
        rows = read_metrics(folder / "metrics.jsonl")
        return [(row["step"], row["loss/total"]) for row in rows if "loss/total" in row]

    assert losses(workdir) == losses(whole)
