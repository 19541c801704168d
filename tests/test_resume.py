"""A run that is killed goes on as if nothing had happened."""

import json
import pathlib
import time

import pytest

from ivx.training.writers import read_metrics
from tests.command import Command

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


def start(workdir: pathlib.Path, data: pathlib.Path) -> Command:
    return Command(
        *("train", "--config=experiments/sft_short.py:scratch", f"--workdir={workdir}", "--json"),
        *(f"--config.{setting}" for setting in SETTINGS),
        f"--config.data.mixture={data / 'data.json'}",
    )


def finish(command: Command) -> dict:
    ended = command.finish()
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


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
    command = start(workdir, data_folder)
    metrics = workdir / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 7):
        if command.exitcode is not None or time.monotonic() > deadline:
            command.kill()
            pytest.fail(command.finish().stderr)
        time.sleep(0.02)
    command.kill()
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
