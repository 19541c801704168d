"""A killed run resumes as if nothing had happened."""

import json
import pathlib
import shutil
import time

import pytest

from ivx.training.writers import read_metrics
from tests.command import Command, refused

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


def start(workdir: pathlib.Path, data: pathlib.Path, *settings: str) -> Command:
    return Command(
        *("train", "--config=experiments/sft_short.py:scratch", f"--workdir={workdir}", "--json"),
        *(f"--config.{setting}" for setting in (*SETTINGS, *settings)),
        f"--config.data.mixture={data / 'data.json'}",
    )


def finish(command: Command) -> dict:
    ended = command.finish()
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def computed_metrics(workdir: pathlib.Path) -> list[tuple]:
    """All metrics of all steps, except times and memory."""
    clocks = ("tokens/sec", "frames/sec", "step/ms", "data/wait_ms", "goodput", "memory/host_gib")
    return [
        tuple(sorted((name, value) for name, value in row.items() if name not in clocks))
        for row in read_metrics(workdir / "metrics.jsonl")
    ]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, data_folder):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    return workdir, finish(start(workdir, data_folder))


def test_killed_run_resumes_bitwise(uninterrupted, data_folder, tmp_path):
    """After SIGKILL and a rerun of the command, every metric of every step is equal."""
    reference, expected = uninterrupted
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
    assert computed_metrics(workdir) == computed_metrics(reference)


def test_rerun_of_finished_run_changes_nothing(uninterrupted, data_folder):
    workdir, expected = uninterrupted
    before = computed_metrics(workdir)
    again = finish(start(workdir, data_folder))
    for name in ("steps", "loss", "validation_loss"):
        assert again[name] == expected[name]
    assert computed_metrics(workdir) == before


@pytest.mark.slow
def test_finished_run_is_made_longer_and_not_shorter(uninterrupted, data_folder, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted[0], workdir)
    before = computed_metrics(workdir)
    longer = start(workdir, data_folder, "run.steps=14").finish()
    assert longer.returncode == 0, longer.stderr
    assert "from step 12 on the learning rate follows the cosine schedule of 14" in longer.stderr
    assert computed_metrics(workdir)[: len(before)] == before
    assert read_metrics(workdir / "metrics.jsonl")[-1]["step"] == 14
    shorter = start(workdir, data_folder, "run.steps=13").finish()
    assert "give run.steps of at least 14" in refused(shorter)
    assert json.loads((workdir / "config.json").read_text())["run"]["steps"] == 14
