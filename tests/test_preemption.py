"""SIGTERM and Ctrl-C: the run saves, says how to go on, and resumes bitwise."""

import os
import signal
import time

import pytest

from ivx.training.writers import read_metrics
from tests import test_resume


@pytest.mark.slow
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_run_saves_on_a_signal_and_resumes_bitwise(number, code, data_folder, tmp_path):
    """Stopped between two regular checkpoints, which are 3 steps apart."""
    reference, workdir = tmp_path / "reference", tmp_path / "run"
    expected = test_resume.finish(test_resume.start(reference, data_folder))
    command = test_resume.start(workdir, data_folder)
    metrics = workdir / "metrics.jsonl"
    while not (metrics.exists() and '"step": 4' in metrics.read_text()):
        assert command.exitcode is None, command.finish().stderr
        time.sleep(0.02)
    os.kill(command.pid, number)
    ended = command.finish(200)
    output = ended.stderr
    assert ended.returncode == code, output
    [message] = [line for line in output.splitlines() if line.startswith("ivx: ")]
    saved = int(message.split("saved step ")[1].split()[0])
    again = f"to go on: ivx train --config=experiments/sft_short.py:scratch --workdir={workdir}"
    assert again in message and "Traceback" not in output
    assert (workdir / "checkpoints" / str(saved)).is_dir() and saved < 12
    assert test_resume.finish(test_resume.start(workdir, data_folder))["loss"] == expected["loss"]

    def losses(folder):
        rows = read_metrics(folder / "metrics.jsonl")
        return [(row["step"], row["loss/total"]) for row in rows if "loss/total" in row]

    assert losses(workdir) == losses(reference)
