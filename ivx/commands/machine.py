"""What this machine has, or all hosts of a run together: `ivx doctor` without a folder.

Started on every host, as `ivx train` is, it joins them, and says of the whole what each cannot see
alone. A check that fails says what to do. A file is written, and removed.
"""

import contextlib
import dataclasses
import importlib.metadata
import os
import pathlib
import platform
import re
import time
from collections.abc import Callable

# Bytes that are written and read, and that each device sends round.
_FILE, _SENT = 64 << 20, 16 << 20


@dataclasses.dataclass(frozen=True)
class Check:
    """One line of the page.

    Attributes:
      name: of what was looked at.
      found: in words.
      advice: what to do; empty where all is well.
    """

    name: str
    found: str
    advice: str = ""


def examine(workdir: str) -> dict:
    """Prints all checks; `workdir` is where storage is tried, "" for none.

    Returns:
      The checks, and `ok`: whether none of them failed.

    Raises:
      UserError: not all hosts came.
    """
    from ivx.parallel import hosts, start

    start.start(cpu_devices=0)
    hosts.join()
    checks = [*_versions(), *_devices(), *_together()]
    if workdir:
        checks.append(_storage(pathlib.Path(workdir)))
    hosts.wait("doctor", seconds=600)
    print(_page(checks))
    return {
        "ok": not any(check.advice for check in checks),
        "checks": [dataclasses.asdict(check) for check in checks],
    }


def _versions() -> list[Check]:
    """Python, and every pinned package beside its pin."""
    found = [Check("python", f"{platform.python_version()}, {os.cpu_count()} cores")]
    wrong = []
    try:
        wanted = importlib.metadata.requires("ivx") or ()
    except importlib.metadata.PackageNotFoundError:
        wanted = ()
    pins = [pin for pin in map(_pin, wanted) if pin]
    for name, version in pins:
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed = "absent"
        if installed != version:
            wrong.append(f"{name} {installed}, pinned {version}")
    if not pins:
        return [*found, Check("packages", "ivx is not installed as a package: pins unknown")]
    advice = "install ivx again: pip install -e ." if wrong else ""
    said = "; ".join(wrong) or f"all {len(pins)} pinned packages as pinned"
    return [*found, Check("packages", said, advice)]


def _pin(requirement: str) -> tuple[str, str] | None:
    """Name and version of what every ivx needs; None of extras."""
    match = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?==([\w.]+)", requirement)
    return match and (match[1], match[2])


def _devices() -> list[Check]:
    """Kinds, counts and memory."""
    import jax

    device = jax.local_devices()[0]
    count, own = jax.device_count(), jax.local_device_count()
    kinds = {one.device_kind for one in jax.devices()}
    slices = {getattr(one, "slice_index", 0) for one in jax.devices()}
    said = f"{count} of {', '.join(sorted(kinds))} ({device.platform}), {own} on this host"
    if len(slices) > 1:
        said += f", in {len(slices)} slices: mesh.replica must be a multiple"
    advice = "" if len(kinds) == 1 else "devices of one kind only train together"
    memory = (device.memory_stats() or {}).get("bytes_limit")
    names = ", ".join(one.kind for one in device.addressable_memories())
    size = f"{memory / 2**30:.1f} GiB a device" if memory else "of unknown size"
    return [Check("devices", said, advice), Check("memory", f"{size}; kinds: {names}")]


def _together() -> list[Check]:
    """A sum over all devices, right and timed; how long hosts wait for each other."""
    import jax
    import jax.numpy as jnp

    from ivx.parallel import hosts, rules
    from ivx.parallel.mesh import AXES, make_mesh

    mesh = make_mesh(dict.fromkeys(AXES, 1) | {"fsdp": -1})
    spread = rules.placed(("pack", None), mesh)
    rows = mesh.size
    make = jax.jit(
        lambda: jnp.ones((rows, _SENT // 4), jnp.float32),
        out_shardings=jax.sharding.NamedSharding(mesh, spread),
    )
    add = jax.jit(lambda array: array.sum(0), out_shardings=rules.replicated(mesh))
    given = make()
    right = float(add(given)[0]) == rows
    seconds = _fastest(lambda: jax.block_until_ready(add(given)))
    said = f"{_SENT >> 20} MiB a device summed over {rows} in {1e3 * seconds:.1f} ms"
    advice = "" if right else "the sum is wrong: a device or a link is broken"
    checks = [Check("mesh", said, advice)]
    if jax.process_count() > 1:
        seconds = _fastest(lambda: hosts.wait("doctor's clock", seconds=60))
        said = f"{jax.process_count()} hosts, a barrier of all takes {1e3 * seconds:.1f} ms"
        checks.append(Check("hosts", said))
    return checks


def _fastest(work: Callable[[], object], times: int = 3) -> float:
    """Seconds of the fastest of several runs, after one that does not count."""
    work()
    found = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


def _storage(folder: pathlib.Path) -> Check:
    """Writes a file, makes it durable, renames it and reads it again, as checkpoints are."""
    import jax

    partial = folder / f".doctor-{jax.process_index()}.partial"
    whole, data = partial.with_suffix(".whole"), os.urandom(1 << 20)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        with partial.open("wb") as file:
            for _ in range(_FILE >> 20):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(whole)
        written = time.perf_counter() - start
        same = whole.read_bytes() == data * (_FILE >> 20)
        room = os.statvfs(folder)
    except OSError as error:
        said = f"{folder}: {error.strerror}"
        return Check("storage", said, "give a --workdir that can be written")
    finally:
        for path in (partial, whole):
            with contextlib.suppress(OSError):
                path.unlink()
    free = room.f_bavail * room.f_frsize / 2**30
    said = f"{folder}: {_FILE / 1e6 / written:.0f} MB/s written, {free:,.1f} GiB free"
    return Check("storage", said, "" if same else "what was read is not what was written")


def _page(checks: list[Check]) -> str:
    """The result for reading."""
    lines = []
    for check in checks:
        lines.append(f"{'wrong' if check.advice else 'ok':5s} {check.name:9s} {check.found}")
        if check.advice:
            lines.append(f"{'':15s} -> {check.advice}")
    return "\n".join(lines)
