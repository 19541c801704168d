"""A run that is killed goes on as if nothing had happened."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from ivx.training.writers import read_metrics

ROOT = pathlib.Path(__file__).parents[1]
SETTINGS = (
    "mesh.cpu_devices=1",
    "mesh.replica=1",
    "data.batch_packs=2",
    "data.cache_gib=0",
    "run.steps=12",
    "run.log_every=1",
    "run.save_every=3",
    "run.validate_every=3",
    "run.validate_packs=2",
)


def start(workdir: pathlib.Path, data: pathlib.Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "ivx", "train", "--config=experiments/sft_short.py:scratch"]
    command += [f"--config.{setting}" for setting in SETTINGS]
    command += [f"--config.data.mixture={data / 'data.json'}", f"--workdir={workdir}", "--json"]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finish(process: subprocess.Popen) -> dict:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def numbers(workdir: pathlib.Path) -> list[tuple]:
    """Step and everything that training computed, clocks left out."""
    clocks = ("tokens/sec", "frames/sec", "step/ms", "data/wait_ms", "goodput", "memory/host_gib")
    return [
        tuple(sorted((name, value) for name, value in row.items() if name not in clocks))
        for row in read_metrics(workdir / "metrics.jsonl")
    ]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, data_folder):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    return workdir, finish(start(workdir, data_folder))


def test_a_killed_run_ends_with_the_same_bits(uninterrupted, data_folder, tmp_path):
    """SIGKILL in the middle, the same command again: every number of every step is equal."""
    whole, expected = uninterrupted
    workdir = tmp_path / "run"
    process = start(workdir, data_folder)
    metrics = workdir / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 7):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    steps = [row["step"] for row in read_metrics(metrics)]
    assert max(steps) < 12

    again = finish(start(workdir, data_folder))
    assert again["loss"] == expected["loss"]
    assert again["validation_loss"] == expected["validation_loss"]
    assert numbers(workdir) == numbers(whole)


def test_a_finished_run_has_nothing_left_to_do(uninterrupted, data_folder):
    workdir, expected = uninterrupted
    before = numbers(workdir)
    again = finish(start(workdir, data_folder))
    for name in ("steps", "loss", "validation_loss"):
        assert again[name] == expected[name]
    assert numbers(workdir) == before
