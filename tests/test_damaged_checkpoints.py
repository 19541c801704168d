"""Damaged checkpoints are detected and reported, and the previous one is restored."""

import errno
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
from etils import epath

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
    """Retries without waiting, and without collecting the garbage of all other tests."""
    monkeypatch.setattr(restore, "_PAUSES", (0.0,))
    monkeypatch.setattr(restore.gc, "collect", lambda: 0)


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
    "position of another type": lambda w: change_position(w, lambda data: None),
    "checksums of another type": lambda w: change_position(
        w, lambda data: {"next_batch": 6, "fingerprints": [1, 2]}
    ),
    "an array listed under another name": lambda w: [
        path.write_text(path.read_text().replace("kernel", "kernal"))
        for path in [w / "checkpoints/6/state/_METADATA"]
    ],
    "an empty folder": lambda w: (
        shutil.rmtree(w / "checkpoints/6"),
        (w / "checkpoints/6").mkdir(),
    ),
    "a folder for a file": lambda w: [
        change(w / "checkpoints/6/state/manifest.ocdbt")
        for change in (pathlib.Path.unlink, pathlib.Path.mkdir)
    ],
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


def damages(size: int, rng: np.random.Generator):
    """Kinds of damage, each a name and a function of the bytes; None where no bytes remain."""
    third = max(1, size // 3)
    yield "cut in half", lambda data: data[: size // 2]
    yield "emptied", lambda data: b""
    yield "zeroed", lambda data: bytes(size)
    yield "garbage", lambda data: rng.bytes(size)
    yield "grown", lambda data: data + rng.bytes(9)
    for text in (b"null", b"[]", b"{}"):
        yield text.decode(), lambda data, text=text: text
    for start in range(0, size, third):
        end = min(start + third, size)
        yield (
            f"bytes {start}-{end} zeroed",
            lambda data, a=start, b=end: data[:a] + bytes(b - a) + data[b:],
        )
        bit = int(rng.integers(start, end))
        yield (
            f"bit of byte {bit} flipped",
            lambda data, i=bit: data[:i] + bytes([data[i] ^ 16]) + data[i + 1 :],
        )
    yield "gone", None
    yield "a folder", None


def test_damage_of_every_file_falls_back_or_is_harmless(saved, tmp_path, capsys):
    """Every file of a checkpoint, several ranges of each: wrong values are never restored."""
    rng, fell_back, abstract = np.random.default_rng(0), set(), jax.eval_shape(lambda: state_of(0))
    newest = saved / checkpoint.FOLDER / "6"
    workdir = shutil.copytree(saved, tmp_path / "run")
    for path in sorted(path for path in newest.rglob("*") if path.is_file()):
        data, damaged = path.read_bytes(), workdir / path.relative_to(saved)
        for name, change in damages(len(data), rng):
            damaged.unlink()
            if change:
                damaged.write_bytes(change(data))
            elif name == "a folder":
                damaged.mkdir()
            # As a run reads it, without its moving the damaged one.
            locations = [
                restore.Location(epath.Path(workdir / checkpoint.FOLDER), step) for step in (6, 3)
            ]
            stored = {"params": abstract.params, "opt_state": abstract.opt_state}
            intact = restore.read_newest_intact(locations, stored)
            step = intact.location.step
            assert same(intact.state["params"], state_of(step).params), (path, name)
            output = capsys.readouterr().err
            assert ("DAMAGED CHECKPOINT" in output) == (step == 3), (path, name)
            assert "Traceback" not in output
            fell_back |= {path.relative_to(newest).parts[0]} if step == 3 else set()
            if damaged.is_dir():
                damaged.rmdir()
            damaged.write_bytes(data)
    assert {"data", "state"} <= fell_back


@pytest.mark.parametrize("content", [b"null", b"[]", b'"text"', bytes(99), b'{"metrics": 3}'])
def test_damaged_times_of_checkpoints_do_not_end_run(workdir, content):
    """Orbax keeps the time of a save beside each checkpoint; ivx does not use it."""
    for step in STEPS:
        (workdir / f"checkpoints/{step}/_CHECKPOINT_METADATA").write_bytes(content)
    flip(largest(workdir, 6))
    checkpoints = checkpoint.Checkpoints(workdir, 2, "{}")
    assert checkpoints.restore(jax.eval_shape(lambda: state_of(0))).next_batch == 3
    for step in (6, 9):
        checkpoints.save(state_of(step), step)
    checkpoints.close()
    assert restore_newest(workdir).next_batch == 9
    assert not (workdir / "checkpoints/3").exists()


class BareError(Exception):
    """Tensorstore raises plain exceptions for some kinds of damage."""


@pytest.mark.parametrize("error", [BareError("DATA_LOSS: at byte 0"), RuntimeError("INTERNAL: x")])
def test_error_of_any_type_falls_back(workdir, monkeypatch, capfd, error):
    fail(monkeypatch, 6, error)
    assert restore_newest(workdir).next_batch == 3
    assert f"{type(error).__name__}: {error}" in capfd.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, "Too many open files"),
        PermissionError(errno.EACCES, "Permission denied"),
        BareError("RESOURCE_EXHAUSTED: out of memory"),
        BareError("UNAVAILABLE: 503 for gs://bucket"),
    ],
)
def test_trouble_of_machine_or_storage_is_not_called_damage(workdir, monkeypatch, capfd, error):
    fail(monkeypatch, 6, error)
    with pytest.raises(UserError, match="no damage of the checkpoint"):
        restore_newest(workdir)
    assert "DAMAGED" not in capfd.readouterr().err
    assert (workdir / "checkpoints/6").is_dir()


@pytest.mark.parametrize(
    "error", [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")]
)
def test_lack_of_memory_is_raised_at_once(workdir, monkeypatch, capfd, error):
    fail(monkeypatch, 6, error)
    with pytest.raises(type(error)):
        restore_newest(workdir)
    assert "retrying" not in capfd.readouterr().err


def fail(monkeypatch, step: int, error: Exception) -> None:
    """Makes every read of a checkpoint raise an error."""
    read = restore._read

    def failing(location, abstract):
        if location.step == step:
            raise error
        return read(location, abstract)

    monkeypatch.setattr(restore, "_read", failing)


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
