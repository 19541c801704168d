"""SIGTERM: the run saves, exits with code 75, and resumes bitwise."""

import os
import signal
import time

import pytest

from ivx.errors import Interrupted
from ivx.training.health import preemption
from ivx.training.writers import read_metrics
from tests import test_resume


def test_notice_takes_effect_between_two_units():
    before = signal.getsignal(signal.SIGTERM)
    with preemption.Notice(unit=4) as notice:
        assert not notice.reached(4)
        os.kill(os.getpid(), signal.SIGTERM)
        assert [step for step in range(5, 13) if notice.reached(step)] == [8, 12]
        # A second signal would end the process.
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.slow
def test_run_saves_on_sigterm_and_resumes_bitwise(data_folder, tmp_path):
    """Stopped between two regular checkpoints, which are 3 steps apart."""
    reference, workdir = tmp_path / "reference", tmp_path / "run"
    expected = test_resume.finish(test_resume.start(reference, data_folder))
    command = test_resume.start(workdir, data_folder)
    metrics = workdir / "metrics.jsonl"
    while not (metrics.exists() and '"step": 4' in metrics.read_text()):
        assert command.exitcode is None, command.finish().stderr
        time.sleep(0.02)
    os.kill(command.pid, signal.SIGTERM)
    ended = command.finish(200)
    output = ended.stderr
    assert ended.returncode == Interrupted.EXIT_CODE == 75, output
    [message] = [line for line in output.splitlines() if line.startswith("ivx: ")]
    saved = int(message.split("saved step ")[1].split()[0])
    assert "the same command goes on from there" in message and "Traceback" not in output
    assert (workdir / "checkpoints" / str(saved)).is_dir() and saved < 12
    assert test_resume.finish(test_resume.start(workdir, data_folder))["loss"] == expected["loss"]

    def losses(folder):
        rows = read_metrics(folder / "metrics.jsonl")
        return [(row["step"], row["loss/total"]) for row in rows if "loss/total" in row]

    assert losses(workdir) == losses(reference)
