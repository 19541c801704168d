"""A lock on an output folder: two commands never write into one folder at the same time.

    FOLDER/.ivx-lock         of a folder that grows: a workdir, a prepared data set
    PARENT/.NAME.ivx-lock    of a folder that appears complete, by a rename: an export

The file names its holder. It is created exclusively, touched every `BEAT` seconds and removed at
the end. A killed process leaves it behind. Whether the holder is alive is seen like this:

    on this machine          by its process id and the start time of that process
    anywhere else            by the touches: a lock that stays untouched for `PATIENCE` seconds
                             while it is watched is stale. No two clocks are compared

`flock` alone is not enough: network file systems and mounted buckets keep it to one machine. Here
it only guards the moment in which a stale lock is replaced.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import pathlib
import shlex
import socket
import stat
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator

from ivx.errors import UserError

NAME = ".ivx-lock"
# Seconds between two touches, and how long a stranger's lock is watched before it counts as stale.
# Mounted buckets and NFS show a touch up to a minute late.
BEAT, PATIENCE = 15.0, 120.0
# A lock this much older than a new file is stale at once: no two clocks differ by so much.
_OLD = 3600.0


@dataclasses.dataclass(frozen=True)
class Holder:
    """The process that holds a lock.

    Attributes:
      token: unique to one taking of the lock.
      host: its host name.
      machine: where process ids mean the same: host, boot, namespace of processes.
      pid: its process id.
      began: its start, in clock ticks after boot; empty where the system does not tell.
      since: when it took the lock, for people.
      command: its command line, for people.
    """

    token: str
    host: str
    machine: str
    pid: int
    began: str
    since: str
    command: str


_FIELDS = dataclasses.fields(Holder)


@dataclasses.dataclass(frozen=True)
class _Found:
    """A lock file at one moment; `holder` is None if its text is no holder's."""

    text: bytes
    touched: int
    holder: Holder | None

    def is_alive(self) -> bool | None:
        """Whether the holder runs on this machine; None if it is elsewhere or unknown."""
        if self.holder is None or self.holder.machine != _machine():
            return None
        began = _start_of(self.holder.pid)
        return began is not None and (began == self.holder.began or not began)


def inside(folder: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    """Holds the lock of a folder that grows; creates it, and removes it if it stays empty.

    Raises:
      UserError: another process holds it.
    """
    folder = folder.resolve()
    return _hold(folder, folder / NAME)


def beside(folder: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    """Holds the lock of a folder that appears complete; the lock lies in its parent.

    Raises:
      UserError: another process holds it.
    """
    folder = folder.resolve()
    return _hold(folder, folder.with_name(f".{folder.name}{NAME}"))


@contextlib.contextmanager
def _hold(folder: pathlib.Path, path: pathlib.Path) -> Iterator[None]:
    created = [part for part in (path.parent, *path.parent.parents) if not part.exists()]
    text = json.dumps(dataclasses.asdict(_this_process())).encode() + b"\n"
    ended = threading.Event()
    try:
        _take(folder, path, text)
        beat = threading.Thread(target=_beat, args=(folder, path, text, ended), daemon=True)
        beat.start()
        try:
            yield
        finally:
            ended.set()
            beat.join()
            _release(path, text)
    finally:
        for part in created:
            with contextlib.suppress(OSError):  # it is in use
                part.rmdir()


def _take(folder: pathlib.Path, path: pathlib.Path, text: bytes) -> None:
    """Creates the lock file, once no living process holds it."""
    while True:
        found = None
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError), _guard(path.parent):
            found = _read(path)
            if found and found.is_alive() is False:
                path.unlink()
                found = None
            if not found:
                with contextlib.suppress(FileExistsError):  # created on another machine
                    _create(path, text)
                    return
                continue
        if found is None:  # the folder has just been removed
            continue
        if found.is_alive():
            raise UserError(_refusal(folder, found.holder))
        _await_end(folder, path, found)
        with contextlib.suppress(FileNotFoundError, FileExistsError), _guard(path.parent):
            if _read(path) != found:
                continue
            path.unlink()
            _create(path, text)
        # Another machine may have done the same at the same moment; the last one has it.
        time.sleep(1)
        if (found := _read(path)) and found.text == text:
            return


def _await_end(folder: pathlib.Path, path: pathlib.Path, found: _Found) -> None:
    """Returns once a stranger's lock is stale or gone.

    Raises:
      UserError: it was touched, so its holder is alive.
    """
    if _age(path, found) > _OLD:
        return
    print(
        f"ivx: {folder} is locked by {_describe(found.holder)}; waiting up to {PATIENCE:.0f} s for"
        " a sign of life from there",
        file=sys.stderr,
        flush=True,
    )
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        time.sleep(min(1.0, PATIENCE / 10))
        now = _read(path)
        if now is None or now.text != found.text:
            return
        if now != found:
            raise UserError(_refusal(folder, found.holder))


def _age(path: pathlib.Path, found: _Found) -> float:
    """Seconds between the last touch and a new file in the same folder."""
    with tempfile.TemporaryFile(dir=path.parent) as new:
        new.write(b"\n")
        new.flush()
        return (os.fstat(new.fileno()).st_mtime_ns - found.touched) / 1e9


def _beat(folder: pathlib.Path, path: pathlib.Path, text: bytes, ended: threading.Event) -> None:
    """Touches the lock until the end; a process that has lost its lock ends at once.

    It can lose it only if it was suspended: another process then took over its folder.
    """
    while not ended.wait(BEAT):
        with contextlib.suppress(OSError, UserError):  # the next touch may succeed
            found = _read(path)
            if found is None:
                _create(path, text)
            elif found.text == text:
                os.utime(path)
            else:
                print(
                    f"ivx: {folder} was taken over by {_describe(found.holder)} while this process"
                    " was suspended; this process ends and leaves the folder to it",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(2)


def _release(path: pathlib.Path, text: bytes) -> None:
    with contextlib.suppress(OSError, UserError), _guard(path.parent):
        if (found := _read(path)) and found.text == text:
            path.unlink()


@contextlib.contextmanager
def _guard(folder: pathlib.Path) -> Iterator[None]:
    """Keeps other processes of this machine out for a moment, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _create(path: pathlib.Path, text: bytes) -> None:
    """Raises:
    FileExistsError: there is a lock.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        with open(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink()
        raise


def _read(path: pathlib.Path) -> _Found | None:
    """The lock, or None; network file systems show new times to those who open a file.

    Raises:
      UserError: something else has its name, such as a link to nothing.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise UserError(
                f"{path} must be a file that ivx writes, not a link or a folder; remove it"
            )
        with path.open("rb") as file:
            text, touched = file.read(2**16), os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None
    try:
        content = json.loads(text)
        values = {field.name: content[field.name] for field in _FIELDS}
        known = all(type(values[field.name]) is field.type for field in _FIELDS)
        holder = Holder(**values) if known and 0 < values["pid"] < 2**31 else None
    except (ValueError, TypeError, KeyError, RecursionError):
        holder = None
    return _Found(text, touched, holder)


def _this_process() -> Holder:
    return Holder(
        token=uuid.uuid4().hex,
        host=socket.gethostname(),
        machine=_machine(),
        pid=os.getpid(),
        began=_start_of(os.getpid()) or "",
        since=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        command=shlex.join(["ivx", *sys.argv[1:]])[:200],
    )


def _machine() -> str:
    """Containers share a host name or a boot, but not a namespace of processes."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _start_of(pid: int) -> str | None:
    """Start time of a process; empty if the system does not tell, None without the process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return ""
    # The name of the program, in brackets, may hold anything.
    state, *fields = status.rpartition(b")")[2].split()
    return None if state in (b"Z", b"X") else fields[18].decode()


def _describe(holder: Holder | None) -> str:
    if holder is None:
        return "an unknown process"
    # The text comes from a file that anyone may have written.
    host, since, command = (
        "".join(c for c in text if c.isprintable())
        for text in (holder.host, holder.since, holder.command)
    )
    return f"process {holder.pid} on {host} since {since} (`{command}`)"


def _refusal(folder: pathlib.Path, holder: Holder | None) -> str:
    return (
        f"{folder} is in use by {_describe(holder)}; wait for its end, stop it, or give another"
        " folder"
    )
