"""Workdirs that were moved, and workdirs that are not writable."""

import contextlib
import json
import math
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

from experiments import recipe
from ivx import workdir as workdirs
from ivx.errors import UserError
from ivx.training.writers import read_metrics
from tests import toy
from tests.command import ivx, refused


def losses(workdir) -> dict[int, float]:
    rows = read_metrics(workdir / "metrics.jsonl")
    return {row["step"]: row["loss/total"] for row in rows if "loss/total" in row}


@pytest.fixture
def disk(tmp_path):
    """A mounted file system, and a function that makes it read-only; needs permission to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no permission to mount a file system")

    def protect() -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)

    yield folder, protect
    subprocess.run(["umount", "-l", str(folder)], check=False)


def test_run_resumes_in_moved_workdir(tmp_path):
    """Nothing in a workdir depends on its path."""
    toy.train(tmp_path / "reference")
    toy.train(tmp_path / "before", steps=8)
    shutil.move(tmp_path / "before", tmp_path / "elsewhere" / "after")
    result = toy.train(tmp_path / "elsewhere" / "after")
    assert losses(tmp_path / "elsewhere" / "after") == losses(tmp_path / "reference")
    assert result.loss == losses(tmp_path / "reference")[12]
    assert not (tmp_path / "before").exists()


def test_run_resumes_over_spoiled_metrics(tmp_path, capsys):
    """Spoiled rows are named, all others stay, and the reported loss is that of the last step."""
    expected = toy.train(tmp_path / "reference")
    toy.train(tmp_path / "run", steps=8)
    path = tmp_path / "run" / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"garbage\n\0\0\n{}\n" + b"".join(lines[1:]))
    assert toy.train(tmp_path / "run").loss == expected.loss
    assert losses(tmp_path / "run") == losses(tmp_path / "reference")
    output = capsys.readouterr().err
    assert "skipped line 2 is not JSON, line 3 is not JSON, line 4 has no step" in output


def test_finished_run_reports_no_loss_of_an_earlier_step(tmp_path):
    expected = toy.train(tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    assert toy.train(tmp_path / "run").loss == expected.loss
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join(row for row in rows if json.loads(row)["step"] < 12))
    assert math.isnan(toy.train(tmp_path / "run").loss)
    path.unlink()
    assert toy.train(tmp_path / "run").steps == 12


def test_run_on_read_only_disk_fails_and_resumes_later(disk):
    folder, protect = disk
    toy.train(folder / "run", steps=4)
    protect()
    with pytest.raises(OSError, match="Read-only file system"):
        toy.train(folder / "run")
    subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
    toy.train(folder / "run")
    toy.train(folder / "reference")
    assert losses(folder / "run") == losses(folder / "reference")


# The user id without permissions on Linux.
NOBODY = 65534


@contextlib.contextmanager
def without_permissions(root: pathlib.Path):
    """Makes everything below a folder read-only; root, who ignores modes, becomes nobody."""
    paths = [root, *root.rglob("*")]
    before = [path.stat().st_mode for path in paths]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)
        for path, mode in zip(paths, before, strict=True):
            path.chmod(mode)


def test_run_without_write_permission_fails_and_resumes_later(tmp_path):
    """Needs no mount; not below pytest's folder, which only its own user can read."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        toy.train(folder / "run", steps=4)
        with without_permissions(folder), pytest.raises(PermissionError) as error:
            toy.train(folder / "run")
        assert pathlib.Path(error.value.filename).is_relative_to(folder / "run")
        toy.train(folder / "run")
        toy.train(tmp_path / "reference")
        assert losses(folder / "run") == losses(tmp_path / "reference")


def train(workdir: pathlib.Path, data_folder: pathlib.Path) -> str:
    """The message with which `ivx train` refuses a workdir."""
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


def test_read_only_workdir_is_refused_in_one_sentence(disk, data_folder):
    folder, protect = disk
    protect()
    message = train(folder / "run", data_folder)
    assert message == f"ivx: {folder / 'run'}: Read-only file system"


def test_workdir_that_cannot_be_created_is_refused_in_one_sentence(tmp_path, data_folder):
    """Needs no mount: a folder without write permission, or for root the kernel's /sys."""
    folder = tmp_path / "shut"
    folder.mkdir(mode=0o555)
    folder = pathlib.Path("/sys") if os.geteuid() == 0 else folder
    prefix, reason = train(folder / "run", data_folder).rsplit(": ", 1)
    assert prefix == f"ivx: {folder / 'run'}"
    assert reason in ("Permission denied", "Operation not permitted", "Read-only file system")


def test_workdir_of_a_recipe_names_its_stages(tmp_path):
    """As does a folder of several runs."""
    runs = tmp_path / "runs"
    for name in ("base", "convert", "export/model"):
        (runs / name).mkdir(parents=True)
        (runs / name / "config.json").write_text("{}")
    with pytest.raises(UserError, match="not a workdir; give one of those in it: base, convert, e"):
        workdirs.load(runs)
    workdirs.claim(runs, recipe.get_config("quick"))
    with pytest.raises(UserError, match="of a recipe; give that of a stage: base, convert, export"):
        workdirs.load(runs)
    with pytest.raises(UserError, match="not the config of a run"):
        workdirs.load(runs / "base")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("[]", "it holds no config"),
        ('{"stage": {"name": ["sft"]}}', "does not fit this version"),
    ],
)
def test_damaged_config_is_one_sentence(text, message, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        workdirs.load(tmp_path)
