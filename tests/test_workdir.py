"""A workdir that was moved, and one that cannot be written to."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

from ivx.training.writers import read_metrics
from tests import toy
from tests.command import ivx, refused


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


# Of any Linux: who has no rights.
NOBODY = 65534


@contextlib.contextmanager
def without_rights(folder: pathlib.Path):
    """Nothing below a folder can be written meanwhile; root, whom no mode stops, is nobody."""
    places = [folder, *(path for path in folder.rglob("*"))]
    before = [path.stat().st_mode for path in places]
    for path in places:
        path.chmod(0o555 if path.is_dir() else 0o444)
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)
        for path, mode in zip(places, before, strict=True):
            path.chmod(mode)


def test_a_run_without_the_right_to_write_is_refused_and_goes_on_later(tmp_path):
    """Needs no right to mount; not below pytest's folder, which is its user's alone."""
    with tempfile.TemporaryDirectory() as name:
        place = pathlib.Path(name)
        toy.train(place / "run", steps=4)
        with without_rights(place), pytest.raises(PermissionError) as found:
            toy.train(place / "run")
        assert pathlib.Path(found.value.filename).is_relative_to(place / "run")
        toy.train(place / "run")
        toy.train(tmp_path / "whole")
        assert losses(place / "run") == losses(tmp_path / "whole")


def train(workdir: pathlib.Path, data_folder: pathlib.Path) -> str:
    """The sentence with which `ivx train` refuses a workdir."""
    return refused(
        ivx(
            "train",
            "--config=experiments/sft_short.py:scratch",
            f"--config.data.mixture={data_folder / 'data.json'}",
            f"--workdir={workdir}",
            "--config.mesh.cpu_devices=1",
            "--config.mesh.replica=1",
        )
    )


def test_a_read_only_workdir_is_refused_in_one_sentence(disk, data_folder):
    place, protect = disk
    protect()
    said = train(place / "run", data_folder)
    assert said == f"ivx: {place / 'run'}: Read-only file system"


def test_a_workdir_that_cannot_be_made_is_refused_in_one_sentence(tmp_path, data_folder):
    """Needs no right to mount: where others may make no folders, even root in the kernel's own."""
    place = tmp_path / "shut"
    place.mkdir(mode=0o555)
    place = pathlib.Path("/sys") if os.geteuid() == 0 else place
    said, why = train(place / "run", data_folder).rsplit(": ", 1)
    assert said == f"ivx: {place / 'run'}"
    assert why in ("Permission denied", "Operation not permitted", "Read-only file system")
