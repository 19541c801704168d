"""A checkpoint that is not what was saved is noticed, said, and the one before is used."""

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
from ivx.training import checkpoint, verified
from ivx.training.state import init_state

OPTIMIZER = optax.adamw(1e-3)
STEPS = (3, 6)


def state_of(step: int):
    """A state whose parameters tell its step."""
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
def at_once(monkeypatch):
    """What cannot be read is tried again at once."""
    monkeypatch.setattr(verified, "_PAUSES", (0.0,))


def test_storage_that_fails_once_costs_no_checkpoint(workdir, monkeypatch, capfd):
    read, failing = verified._read, [OSError("503 Service Unavailable")]

    def sometimes(*asked):
        if failing:
            raise failing.pop()
        return read(*asked)

    monkeypatch.setattr(verified, "_read", sometimes)
    assert restore(workdir).next_batch == max(STEPS)
    said = capfd.readouterr().err
    assert "503 Service Unavailable" in said and "DAMAGED" not in said


@pytest.fixture
def workdir(saved, tmp_path) -> pathlib.Path:
    """A copy to damage."""
    return shutil.copytree(saved, tmp_path / "run")


def same(a, b) -> bool:
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def restore(workdir: pathlib.Path, remote=None) -> checkpoint.Restored:
    checkpoints = checkpoint.Checkpoints(workdir, 2, "{}", remote)
    try:
        return checkpoints.restore(jax.eval_shape(lambda: state_of(0)))
    finally:
        checkpoints.close()


def files(workdir: pathlib.Path, step: int) -> list[pathlib.Path]:
    """Those that arrays are stored in."""
    place = workdir / checkpoint.FOLDER / str(step) / "state"
    return sorted(path for path in place.rglob("*") if path.is_file())


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


def test_what_was_saved_is_restored(workdir):
    restored = restore(workdir)
    assert restored.next_batch == 6 and same(restored.state, state_of(6))
    assert not (workdir / verified.DAMAGED).exists()


@pytest.mark.parametrize("kind", DAMAGE)
def test_the_one_before_is_used_and_said(workdir, kind, capsys):
    DAMAGE[kind](workdir)
    restored = restore(workdir)
    assert restored.next_batch == 3 and same(restored.state, state_of(3))
    said = capsys.readouterr().err
    assert "DAMAGED CHECKPOINT" in said and "step 6" in said
    assert "GOES ON FROM THE CHECKPOINT BEFORE: step 3" in said
    # The run comes by step 6 again, and saves it.
    assert (workdir / verified.DAMAGED / "6").is_dir()
    checkpoints = checkpoint.Checkpoints(workdir, 2, "{}")
    checkpoints.save(state_of(6), 6)
    checkpoints.close()
    assert restore(workdir).next_batch == 6


def test_a_flipped_bit_anywhere_is_noticed_or_harmless(saved, tmp_path):
    """Every file of arrays in turn: never are other numbers believed."""
    noticed = 0
    for number, path in enumerate(files(saved, 6)):
        workdir = shutil.copytree(saved, tmp_path / str(number))
        flip(workdir / path.relative_to(saved))
        restored = restore(workdir)
        noticed += restored.next_batch == 3
        assert same(restored.state, state_of(restored.next_batch))
    assert noticed


def test_reading_parameters_alone_notices_too_and_changes_nothing(workdir, capsys):
    abstract = jax.eval_shape(lambda: state_of(0).params)
    assert checkpoint.load_params(workdir, abstract)[1] == 6
    flip(largest(workdir, 6))
    params, step = checkpoint.load_params(workdir, abstract)
    assert step == 3 and same(params, state_of(3).params)
    assert "DAMAGED CHECKPOINT" in capsys.readouterr().err
    assert (workdir / "checkpoints/6").is_dir()


def test_when_none_is_whole_the_error_names_each(workdir):
    for step in STEPS:
        flip(largest(workdir, step))
    with pytest.raises(UserError, match=r"no checkpoint of .* is whole: step 6: .*; step 3: "):
        restore(workdir)
    assert all((workdir / "checkpoints" / str(step)).is_dir() for step in STEPS)


def test_one_that_a_kill_left_half_written_is_removed(workdir):
    half = workdir / "checkpoints/9.orbax-checkpoint-tmp"
    shutil.copytree(workdir / "checkpoints/6", half)
    assert restore(workdir).next_batch == 6
    # Orbax removes it in the background.
    until = time.monotonic() + 60
    while half.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not half.exists()


def test_without_checksums_it_is_believed_and_said(workdir, capsys):
    """As an earlier version wrote them."""
    change_position(workdir, lambda data: {"next_batch": data["next_batch"]})
    assert restore(workdir).next_batch == 6
    assert "without checksums" in capsys.readouterr().err


@pytest.fixture
def twice(tmp_path) -> tuple[pathlib.Path, checkpoint.Remote]:
    """A workdir with steps 3, 6, 9, and a second place that every other of them went to."""
    remote = checkpoint.Remote(str(tmp_path / "bucket"), every=2)
    checkpoints = checkpoint.Checkpoints(tmp_path / "run", 3, "{}", remote)
    for step in (3, 6, 9):
        checkpoints.save(state_of(step), step)
    checkpoints.close()
    return tmp_path / "run", remote


def test_a_lost_disk_is_made_up_for_by_the_second_place(twice, capsys):
    workdir, remote = twice
    shutil.rmtree(workdir)
    restored = restore(workdir, remote)
    assert restored.next_batch == 6 and same(restored.state, state_of(6))
    assert f"restored step 6 from {remote.folder}" in capsys.readouterr().err


def test_of_two_places_the_newest_whole_one_counts(twice):
    workdir, remote = twice
    assert restore(workdir, remote).next_batch == 9
    flip(largest(workdir, 9))
    flip(largest(workdir, 6))
    # Step 6 is damaged in the workdir, and whole in the other place.
    assert restore(workdir, remote).next_batch == 6
    assert not (workdir / "checkpoints/6").exists()


def test_the_last_save_goes_to_both(twice):
    workdir, remote = twice
    checkpoints = checkpoint.Checkpoints(workdir, 3, "{}", remote)
    checkpoints.save(state_of(12), 12, last=True)
    checkpoints.close()
    shutil.rmtree(workdir)
    assert restore(workdir, remote).next_batch == 12


def test_a_full_disk_is_said_and_what_was_there_stays(tmp_path):
    """A file system of a MiB; needs the right to mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a file system")
    try:
        checkpoints = checkpoint.Checkpoints(disk, 2, "{}")
        checkpoints.save(state_of(3), 3)
        checkpoints.close()
        (disk / "films").write_bytes(bytes((os.statvfs(disk).f_bavail - 2) * 4096))
        checkpoints = checkpoint.Checkpoints(disk, 2, "{}")
        with pytest.raises(UserError, match=r"could not be written to .*goes on from step 3"):
            checkpoints.save(state_of(6), 6)
            checkpoints.close()
        (disk / "films").unlink()
        assert restore(disk).next_batch == 3
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)
