"""One process at a time writes a folder; locks of dead processes hold nobody up."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivx import folder_lock
from ivx.errors import UserError
from tests.command import ROOT

# Holds the lock until it is killed or its standard input ends.
HOLD = """
import pathlib, sys
from ivx import errors, folder_lock
try:
    with getattr(folder_lock, sys.argv[1])(pathlib.Path(sys.argv[2])):
        print("held", flush=True)
        sys.stdin.read()
except errors.UserError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""
KINDS = pytest.mark.parametrize("kind", ["inside", "beside"])


def start(kind: str, folder: pathlib.Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, kind, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lock_of(kind: str, folder: pathlib.Path) -> pathlib.Path:
    name = folder_lock.NAME
    return folder / name if kind == "inside" else folder.with_name(f".{folder.name}{name}")


def write_lock(folder: pathlib.Path, **changes: object) -> pathlib.Path:
    """A lock inside a folder, of this process apart from the changes."""
    holder = dataclasses.replace(folder_lock._this_process(), **changes)
    folder.mkdir(exist_ok=True)
    path = folder / folder_lock.NAME
    path.write_text(json.dumps(dataclasses.asdict(holder)))
    return path


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(folder_lock, "PATIENCE", 0.4)


@KINDS
@pytest.mark.parametrize("left", ["nothing", "the lock of a killed process"])
def test_one_of_many_starts_wins(kind, left, tmp_path):
    folder = tmp_path / "out"
    if left != "nothing":
        killed = start(kind, folder)
        assert killed.stdout.readline() == "held\n"
        killed.kill()
        killed.wait()
        assert lock_of(kind, folder).exists()
    processes = [start(kind, folder) for _ in range(8)]
    ended = []
    while len(ended) < 7:
        ended = [process for process in processes if process.poll() is not None]
        time.sleep(0.01)
    [winner] = [process for process in processes if process not in ended]
    assert winner.stdout.readline() == "held\n"
    for process in ended:
        out, error = process.communicate()
        assert (process.returncode, out) == (2, "")
        assert error.startswith(f"{folder} is in use by process {winner.pid} on ")
        assert error.count("\n") == 1 and "wait for its end, stop it, or give another" in error
    winner.communicate()
    assert winner.returncode == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@KINDS
def test_restart_after_a_kill_needs_no_wait(kind, tmp_path):
    """Also before the parent of the killed process has noticed its death."""
    process = start(kind, tmp_path / "out")
    assert process.stdout.readline() == "held\n"
    process.kill()
    began = time.monotonic()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with getattr(folder_lock, kind)(tmp_path / "out"):
        assert time.monotonic() - began < 0.5
    process.wait()


def test_second_lock_of_one_process_is_refused(tmp_path):
    with folder_lock.inside(tmp_path), pytest.raises(UserError, match=f"process {os.getpid()} "):
        folder_lock.inside(tmp_path).__enter__()
    with folder_lock.inside(tmp_path):
        pass


def test_lock_of_a_reused_process_id_is_stale(tmp_path):
    write_lock(tmp_path, began="1")
    began = time.monotonic()
    with folder_lock.inside(tmp_path):
        assert time.monotonic() - began < 0.5


@pytest.mark.parametrize("hours", [-5, 0, 0.5])
def test_untouched_lock_of_another_machine_is_stale_after_a_while(
    hours, impatient, tmp_path, capsys
):
    """Whatever the clock of the other machine says."""
    path = write_lock(tmp_path, machine="another", host="worker-7")
    moment = time.time() - 3600 * hours
    os.utime(path, (moment, moment))
    began = time.monotonic()
    with folder_lock.inside(tmp_path):
        assert time.monotonic() - began > 0.4
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert "on worker-7 since" in capsys.readouterr().err


def test_lock_of_yesterday_is_stale_at_once(tmp_path):
    path = write_lock(tmp_path, machine="another")
    moment = time.time() - 86400
    os.utime(path, (moment, moment))
    with folder_lock.inside(tmp_path):
        pass


@pytest.mark.parametrize("hours", [-5, 0, 0.5])
def test_touched_lock_of_another_machine_is_respected(hours, impatient, tmp_path):
    """Whatever the clock of the other machine says."""
    path = write_lock(tmp_path, machine="another", host="worker-7")
    ended = threading.Event()

    def touch() -> None:
        moment = time.time() - 3600 * hours
        while not ended.wait(0.05):
            moment += 0.05
            os.utime(path, (moment, moment))

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        with pytest.raises(UserError, match=r"is in use by process .* on worker-7"):
            folder_lock.inside(tmp_path).__enter__()
    finally:
        ended.set()
        thread.join()
    assert path.exists()


def test_holder_touches_its_lock_and_replaces_a_removed_one(monkeypatch, tmp_path):
    monkeypatch.setattr(folder_lock, "BEAT", 0.02)
    path = tmp_path / folder_lock.NAME
    with folder_lock.inside(tmp_path):
        os.utime(path, (0, 0))
        time.sleep(0.2)
        assert path.stat().st_mtime > time.time() - 60
        path.unlink()
        time.sleep(0.2)
        assert path.exists()
    assert not path.exists()


def test_holder_that_was_suspended_leaves_the_folder_to_its_new_holder(tmp_path):
    program = HOLD.replace("try:", "folder_lock.BEAT = 0.02\ntry:", 1)
    arguments = [sys.executable, "-c", program, "inside", str(tmp_path / "run")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(arguments, cwd=ROOT, text=True, **pipes)
    assert process.stdout.readline() == "held\n"
    path = write_lock(tmp_path / "run", host="worker-7")
    said = process.stderr.read()
    assert process.wait() == 2 and "was taken over by process" in said and "worker-7" in said
    assert json.loads(path.read_text())["host"] == "worker-7"


def test_failure_inside_leaves_neither_lock_nor_new_folders(tmp_path):
    for kind in ("inside", "beside"):
        with pytest.raises(KeyError), getattr(folder_lock, kind)(tmp_path / "a" / "b"):
            raise KeyError
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty").mkdir()
    with folder_lock.inside(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").is_dir()


def test_full_disk_leaves_no_lock(monkeypatch, tmp_path):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_lock.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        folder_lock.inside(tmp_path).__enter__()
    assert list(tmp_path.iterdir()) == []


@settings(deadline=None, max_examples=50)
@given(
    st.binary() | st.from_type(type(None) | int | str | list[int]).map(json.dumps).map(str.encode)
)
def test_any_bytes_in_a_lock_are_an_unknown_holder(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("lock") / folder_lock.NAME
    path.write_bytes(content)
    found = folder_lock._read(path)
    assert found.holder is None and found.is_alive() is None


@settings(deadline=None, max_examples=50)
@given(
    pid=st.integers() | st.text() | st.none() | st.floats(),
    text=st.text() | st.integers() | st.none(),
)
def test_any_values_in_a_lock_are_judged(tmp_path_factory, pid, text):
    folder = tmp_path_factory.mktemp("lock")
    path = write_lock(folder)
    names = ("began", "host", "since", "command")
    path.write_text(
        json.dumps(json.loads(path.read_text()) | dict.fromkeys(names, text) | {"pid": pid})
    )
    found = folder_lock._read(path)
    assert found.is_alive() in (True, False, None)
    assert folder_lock._refusal(folder, found.holder).isprintable()


@pytest.mark.parametrize("make", (lambda p: p.symlink_to("nowhere"), os.mkfifo, os.mkdir))
def test_lock_that_is_no_file_is_refused(make, tmp_path):
    """A link to nothing can neither be read nor created, and a pipe would be read forever."""
    make(tmp_path / folder_lock.NAME)
    with pytest.raises(UserError, match="must be a file"), folder_lock.inside(tmp_path):
        pass
