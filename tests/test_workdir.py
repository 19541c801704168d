"""A workdir that was moved, and one that cannot be written to."""

import shutil
import subprocess

import pytest

from ivx.training.writers import read_metrics
from tests import toy
from tests.command import ivx


def losses(workdir) -> dict[int, float]:
    rows = read_metrics(workdir / "metrics.jsonl")
    return {row["step"]: row["loss/total"] for row in rows if "loss/total" in row}


@pytest.fixture
def disk(tmp_path):
    """A file system of its own, and a function that makes it read-only; where one may mount."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a file system")

    def protect() -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)

    yield place, protect
    subprocess.run(["umount", "-l", str(place)], check=False)


def test_a_run_goes_on_where_its_workdir_was_moved_to(tmp_path):
    """Nothing in it names its own place."""
    toy.train(tmp_path / "whole")
    toy.train(tmp_path / "before", steps=8)
    shutil.move(tmp_path / "before", tmp_path / "elsewhere" / "after")
    result = toy.train(tmp_path / "elsewhere" / "after")
    assert losses(tmp_path / "elsewhere" / "after") == losses(tmp_path / "whole")
    assert result.loss == losses(tmp_path / "whole")[12]
    assert not (tmp_path / "before").exists()


def test_a_run_on_a_disk_that_became_read_only_is_refused_and_goes_on_later(disk):
    place, protect = disk
    toy.train(place / "run", steps=4)
    protect()
    with pytest.raises(OSError, match="Read-only file system"):
        toy.train(place / "run")
    subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
    toy.train(place / "run")
    toy.train(place / "whole")
    assert losses(place / "run") == losses(place / "whole")


def test_a_read_only_workdir_is_refused_in_one_sentence(disk, data_folder):
    place, protect = disk
    protect()
    found = ivx(
        *("train", "--config=experiments/sft_short.py:scratch", f"--workdir={place / 'run'}"),
        f"--config.data.mixture={data_folder / 'data.json'}",
        *("--config.mesh.cpu_devices=1", "--config.mesh.replica=1"),
    )
    assert found.returncode == 2
    assert found.stderr.splitlines()[-1] == f"ivx: {place / 'run'}: Read-only file system"
