"""Damaged checkpoints are detected and reported, and the previous one is restored."""

import json
import os
import pathlib
import shutil
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ivx.errors import UserError
from ivx.training.checkpoints import checkpoint, restore
from ivx.training.step import init_state

OPTIMIZER = optax.adamw(1e-3)
STEPS = (3, 6)


def state_of(step: int):
    """A state whose parameters depend on its step."""
    rng = np.random.default_rng(step)
    params = {"kernel": jnp.asarray(rng.normal(size=(64, 32)), jnp.float32), "bias": jnp.ones(32)}
    return init_state(params, OPTIMIZER)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("saved")
    checkpoints = checkpoint.Checkpoints(workdir, 2, "{}")
    for step in STEPS:
        checkpoints.save(state_of(step), step)
    checkpoints.close()
    return workdir


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    """Retries without waiting."""
    monkeypatch.setattr(restore, "_PAUSES", (0.0,))


def test_temporary_read_error_is_retried(workdir, monkeypatch, capfd):
    read, failing = restore._read, [OSError("503 Service Unavailable")]

    def flaky(*arguments):
        if failing:
            raise failing.pop()
        return read(*arguments)

    monkeypatch.setattr(restore, "_read", flaky)
    assert restore_newest(workdir).next_batch == max(STEPS)
    output = capfd.readouterr().err
    assert "503 Service Unavailable" in output and "DAMAGED" not in output


@pytest.fixture
def workdir(saved, tmp_path) -> pathlib.Path:
    """A copy to damage."""
    return shutil.copytree(saved, tmp_path / "run")


def same(a, b) -> bool:
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def restore_newest(workdir: pathlib.Path, remote=None) -> checkpoint.Restored:
    checkpoints = checkpoint.Checkpoints(workdir, 2, "{}", remote)
    try:
        return checkpoints.restore(jax.eval_shape(lambda: state_of(0)))
    finally:
        checkpoints.close()


def files(workdir: pathlib.Path, step: int) -> list[pathlib.Path]:
    """The files that store arrays."""
    state = workdir / checkpoint.FOLDER / str(step) / "state"
    return sorted(path for path in state.rglob("*") if path.is_file())


def largest(workdir: pathlib.Path, step: int) -> pathlib.Path:
    return max(files(workdir, step), key=lambda path: path.stat().st_size)


def flip(path: pathlib.Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


DAMAGE = {
    "a bit flipped": lambda w: flip(largest(w, 6)),
    "cut in half": lambda w: largest(w, 6).write_bytes(largest(w, 6).read_bytes()[:2000]),
    "emptied": lambda w: [path.write_bytes(b"") for path in files(w, 6)],
    "a file gone": lambda w: largest(w, 6).unlink(),
    "no position": lambda w: shutil.rmtree(w / "checkpoints/6/data"),
    "another position": lambda w: change_position(w, lambda data: data | {"next_batch": 5}),
    "another checkpoint's arrays": lambda w: (
        shutil.rmtree(w / "checkpoints/6/state"),
        shutil.copytree(w / "checkpoints/3/state", w / "checkpoints/6/state"),
    ),
}


def change_position(workdir: pathlib.Path, change) -> None:
    path = workdir / "checkpoints/6/data/metadata"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def test_intact_checkpoint_is_restored(workdir):
    restored = restore_newest(workdir)
    assert restored.next_batch == 6 and same(restored.state, state_of(6))
    assert not (workdir / restore.DAMAGED).exists()


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_checkpoint_falls_back_to_previous_and_warns(workdir, kind, capsys):
    DAMAGE[kind](workdir)
    restored = restore_newest(workdir)
    assert restored.next_batch == 3 and same(restored.state, state_of(3))
    output = capsys.readouterr().err
    assert "DAMAGED CHECKPOINT" in output and "step 6" in output
    assert "FALLING BACK to an earlier checkpoint: step 3" in output
    # The run saves step 6 again.
    assert (workdir / restore.DAMAGED / "6").is_dir()
    checkpoints = checkpoint.Checkpoints(workdir, 2, "{}")
    checkpoints.save(state_of(6), 6)
    checkpoints.close()
    assert restore_newest(workdir).next_batch == 6


def test_flipped_bit_in_any_file_is_detected_or_harmless(saved, tmp_path):
    """For every array file: wrong values are never restored."""
    detected = 0
    for number, path in enumerate(files(saved, 6)):
        workdir = shutil.copytree(saved, tmp_path / str(number))
        flip(workdir / path.relative_to(saved))
        restored = restore_newest(workdir)
        detected += restored.next_batch == 3
        assert same(restored.state, state_of(restored.next_batch))
    assert detected


def test_loading_parameters_detects_damage_and_changes_nothing(workdir, capsys):
    abstract = jax.eval_shape(lambda: state_of(0).params)
    assert checkpoint.load_params(workdir, abstract)[1] == 6
    flip(largest(workdir, 6))
    params, step = checkpoint.load_params(workdir, abstract)
    assert step == 3 and same(params, state_of(3).params)
    assert "DAMAGED CHECKPOINT" in capsys.readouterr().err
    assert (workdir / "checkpoints/6").is_dir()


def test_error_lists_every_damaged_checkpoint(workdir):
    for step in STEPS:
        flip(largest(workdir, step))
    with pytest.raises(UserError, match=r"no checkpoint in .* is intact: step 6: .*; step 3: "):
        restore_newest(workdir)
    assert all((workdir / "checkpoints" / str(step)).is_dir() for step in STEPS)


def test_incomplete_checkpoint_of_a_killed_run_is_removed(workdir):
    partial = workdir / "checkpoints/9.orbax-checkpoint-tmp"
    shutil.copytree(workdir / "checkpoints/6", partial)
    assert restore_newest(workdir).next_batch == 6
    # Orbax removes it in the background.
    until = time.monotonic() + 60
    while partial.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not partial.exists()


def test_checkpoint_without_checksums_is_restored_with_warning(workdir, capsys):
    """Earlier versions wrote no checksums."""
    change_position(workdir, lambda data: {"next_batch": data["next_batch"]})
    assert restore_newest(workdir).next_batch == 6
    assert "has no checksums" in capsys.readouterr().err


@pytest.fixture
def twice(tmp_path) -> tuple[pathlib.Path, checkpoint.Remote]:
    """A workdir with steps 3, 6, 9, and a second folder with every other one."""
    remote = checkpoint.Remote(str(tmp_path / "bucket"), every=2)
    checkpoints = checkpoint.Checkpoints(tmp_path / "run", 3, "{}", remote)
    for step in (3, 6, 9):
        checkpoints.save(state_of(step), step)
    checkpoints.close()
    return tmp_path / "run", remote


def test_second_folder_restores_a_lost_workdir(twice, capsys):
    workdir, remote = twice
    shutil.rmtree(workdir)
    restored = restore_newest(workdir, remote)
    assert restored.next_batch == 6 and same(restored.state, state_of(6))
    assert f"restored step 6 from {remote.folder}" in capsys.readouterr().err


def test_newest_intact_checkpoint_of_both_folders_is_restored(twice):
    workdir, remote = twice
    assert restore_newest(workdir, remote).next_batch == 9
    flip(largest(workdir, 9))
    flip(largest(workdir, 6))
    # Step 6 is damaged in the workdir but intact in the second folder.
    assert restore_newest(workdir, remote).next_batch == 6
    assert not (workdir / "checkpoints/6").exists()


def test_last_save_goes_to_both_folders(twice):
    workdir, remote = twice
    checkpoints = checkpoint.Checkpoints(workdir, 3, "{}", remote)
    checkpoints.save(state_of(12), 12, last=True)
    checkpoints.close()
    shutil.rmtree(workdir)
    assert restore_newest(workdir, remote).next_batch == 12


def test_full_disk_raises_user_error_and_keeps_older_checkpoint(tmp_path):
    """On a file system of 1 MiB; needs permission to mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no permission to mount a file system")
    try:
        checkpoints = checkpoint.Checkpoints(disk, 2, "{}")
        checkpoints.save(state_of(3), 3)
        checkpoints.close()
        (disk / "films").write_bytes(bytes((os.statvfs(disk).f_bavail - 2) * 4096))
        checkpoints = checkpoint.Checkpoints(disk, 2, "{}")
        with pytest.raises(UserError, match=r"could not be written to .*resume from step 3"):
            checkpoints.save(state_of(6), 6)
            checkpoints.close()
        (disk / "films").unlink()
        assert restore_newest(disk).next_batch == 3
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)
