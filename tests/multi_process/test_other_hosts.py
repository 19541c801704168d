"""Runs on one, two and four processes have equal losses and resume each other's checkpoints."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from ivx.errors import Interrupted
from ivx.training.writers import read_metrics

ROOT = pathlib.Path(__file__).parents[2]
DEVICES = 4

pytestmark = pytest.mark.slow


def start(workdir: pathlib.Path, processes: int, *arguments: str) -> list[subprocess.Popen]:
    """Starts the toy on four devices, divided over `processes`."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.toy", str(workdir), *arguments),
                *(f"--devices={DEVICES // processes}", f"--port={port}"),
                *(f"--processes={processes}", f"--index={index}"),
            ],
            cwd=ROOT,
            env=environment | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(processes)
    ]


def finish(processes: list[subprocess.Popen], seconds: float = 500) -> list[tuple[int, str]]:
    """Exit code and stderr of each process."""
    deadline = time.monotonic() + seconds
    errors = [p.communicate(timeout=max(1, deadline - time.monotonic()))[1] for p in processes]
    return [(p.returncode, error) for p, error in zip(processes, errors, strict=True)]


def train(workdir: pathlib.Path, processes: int, steps: int) -> None:
    for code, said in finish(start(workdir, processes, f"--steps={steps}")):
        assert code == 0, said


def losses(workdir: pathlib.Path) -> dict[int, float]:
    rows = read_metrics(workdir / "metrics.jsonl")
    return {row["step"]: row["loss/total"] for row in rows if "loss/total" in row}


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("alone") / "run"
    train(workdir, 1, 12)
    return workdir


@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_train_as_one(single, tmp_path, processes):
    train(tmp_path / "run", processes, 12)
    assert losses(tmp_path / "run") == pytest.approx(losses(single), rel=1e-5)
    [row] = [row for row in read_metrics(tmp_path / "run/metrics.jsonl") if row["step"] == 12][-1:]
    assert "validation/loss" in row


def test_run_resumes_with_a_different_number_of_processes(single, tmp_path):
    """Two, then four, then one; each sample is read once, and losses equal those of one process."""
    workdir = tmp_path / "run"
    for processes, steps in ((2, 4), (4, 8), (1, 12)):
        train(workdir, processes, steps)
    assert losses(workdir) == pytest.approx(losses(single), rel=1e-5)


def wait_for_step(workdir: pathlib.Path, step: int, processes: list[subprocess.Popen]) -> None:
    metrics, deadline = workdir / "metrics.jsonl", time.monotonic() + 400
    while not (metrics.exists() and max(losses(workdir), default=0) >= step):
        exited = [p.communicate()[1] for p in processes if p.poll() is not None]
        assert not exited and time.monotonic() < deadline, exited
        time.sleep(0.1)


def test_processes_exit_when_one_is_killed_and_the_run_resumes(single, tmp_path):
    """Within a minute, with a message and the exit code for a restart."""
    workdir = tmp_path / "run"
    processes = start(workdir, 2, "--pause=0.5")
    wait_for_step(workdir, 5, processes)
    processes[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    [(code, said), _] = finish(processes, seconds=60)
    assert time.monotonic() - killed < 60
    assert code == Interrupted.EXIT_CODE, said
    assert "ivx: process 0 of 2 lost another process of this run" in said
    assert "to resume from the newest checkpoint" in said
    train(workdir, 2, 12)
    assert losses(workdir) == pytest.approx(losses(single), rel=1e-5)


def test_all_processes_save_the_same_step_when_one_is_terminated(single, tmp_path):
    workdir = tmp_path / "run"
    processes = start(workdir, 2, "--pause=0.5", "--save_every=100")
    wait_for_step(workdir, 2, processes)
    processes[1].send_signal(signal.SIGTERM)
    ends = finish(processes)
    assert [code for code, _ in ends] == [Interrupted.EXIT_CODE] * 2, ends
    sentences = [said.split("saved step ")[1].split(";")[0] for _, said in ends]
    assert sentences[0] == sentences[1]
    train(workdir, 2, 12)
    assert losses(workdir) == pytest.approx(losses(single), rel=1e-5)
