"""A full disk ends a command with one sentence, and nothing half-written counts as whole."""

import contextlib
import errno
import os
import pathlib
import subprocess

import pytest

from data_pipelines import disk_full, local_copy
from data_pipelines.media_error import MediaError
from data_pipelines.prepared import shards
from ivx import cli
from ivx.errors import UserError
from ivx.training.health import failures
from ivx.training.writers import read_metrics
from tests import command, toy
from tests.command import ivx
from tests.kill_train import last_state

ASSET = "assets/tiny-base"
FULL = "could not be written: No space left on device; free some space and start again"


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a file system of so many KiB; needs permission to mount."""
    mounted = []

    def mount(kib: int) -> pathlib.Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
        if subprocess.run(["mount", *options], capture_output=True, check=False).returncode:
            pytest.skip("no permission to mount a file system")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=False)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "/data/a"),
        RuntimeError("write() failed: No space left on device; at byte 1048576"),
        ValueError("UNKNOWN: Error writing: No space left on device [OS error: ENOSPC]"),
    ],
)
def test_full_disk_is_recognised_behind_any_error(error, monkeypatch, capsys):
    def run(*arguments: object) -> None:
        try:
            raise error
        except Exception as cause:
            raise KeyError("a worker failed") from cause

    monkeypatch.setattr(cli, "_run", run)
    with pytest.raises(SystemExit) as end:
        cli.main("ivx", "", {"train": ""}, ["ivx", "train"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("ivx: ") and said.endswith("free some space and start again\n")
    assert said.count("\n") == 1 and (getattr(error, "filename", None) or "a file") in said


def test_other_errors_are_not_a_full_disk():
    for error in (KeyError("x"), OSError(errno.EACCES, "Permission denied", "/a"), ValueError()):
        assert not disk_full.is_full(error) and disk_full.sentence(error) == ""


def test_full_disk_of_copies_is_no_fault_of_a_sample():
    """Or every remote sample would be left out while the disk is full."""
    with pytest.raises(OSError, match="No space left"), local_copy.remote_errors("gs://b/a.mp4"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(MediaError), local_copy.remote_errors("gs://b/a.mp4"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_full_shard_is_not_complete_and_is_written_again(small_disk):
    stem = small_disk(1024) / "00000"
    writer = shards.Writer(stem)
    with pytest.raises((RuntimeError, OSError)) as error:
        for _ in range(20):
            writer.add(os.urandom(100_000))
        writer.finish({}, {})
    assert disk_full.is_full(error.value)
    assert not shards.is_complete(stem)
    del writer
    writer = shards.Writer(stem)
    writer.add(b"small")
    writer.finish({}, {})
    assert shards.is_complete(stem) and shards.record(f"{stem}.array_record", 0) == b"small"


def refused(*arguments: str) -> None:
    assert command.refused(ivx(*arguments)).endswith(FULL)


def test_export_and_import_to_a_full_disk_leave_nothing(small_disk):
    folder = small_disk(2048)
    refused("export-hf", f"--workdir={ASSET}", f"--out={folder / 'model'}")
    assert list(folder.iterdir()) == []
    refused("import-hf", f"--source={ASSET}", f"--workdir={folder / 'run'}")
    assert not (folder / "run" / "config.json").exists()
    assert not [name for name in os.listdir(folder / "run") if "lock" in name]


def test_data_on_a_full_disk_goes_on_when_there_is_space(small_disk, data_folder):
    folder = small_disk(160)
    refused("data", "synthesize", f"--out={folder / 'data'}", "--preset=test")
    assert list(folder.iterdir()) == []
    prepare = (
        *("data", "prepare", f"--out={folder / 'prepared'}"),
        f"--mixture={data_folder / 'data.json'}",
    )
    refused(*prepare)
    assert not (folder / "prepared" / "data.json").exists()
    subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
    assert ivx(*prepare).returncode == 0
    check = ivx("data", "check", f"--mixture={folder / 'prepared' / 'data.json'}")
    assert check.returncode == 0, check.stderr


def test_full_disk_ends_training_and_it_goes_on_later(small_disk, tmp_path):
    folder = small_disk(4096)
    toy.train(folder / "run", steps=4)
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    with pytest.raises((OSError, UserError), match="No space left"):
        toy.train(folder / "run")
    filler.unlink()
    toy.train(folder / "run")
    toy.train(tmp_path / "reference")
    assert read_metrics(folder / "run/metrics.jsonl")[-1]["step"] == 12
    assert last_state(folder / "run") == last_state(tmp_path / "reference")


def test_full_disk_on_one_host_of_several_exits_with_2(monkeypatch, capsys):
    monkeypatch.setattr(failures.jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(failures.jax, "process_count", lambda: 2)
    ends = []
    failures.leave_on_failure(
        None, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), None, end=ends.append
    )
    assert ends == [2] and FULL in capsys.readouterr().err
