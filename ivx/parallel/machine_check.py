"""`ivx doctor` without a folder: checks this machine, or all hosts of a run together.

Started on every host, as `ivx train` is, it joins the hosts and checks them as one system. A failed
check prints what to do. The storage check writes a file and removes it.
"""

import contextlib
import dataclasses
import importlib.metadata
import os
import pathlib
import platform
import time
from collections.abc import Callable

from packaging.requirements import Requirement

from ivx.parallel import available_memory

# Bytes of the file that is written and read, and of the array that each device sums.
_FILE_BYTES, _ARRAY_BYTES = 64 << 20, 16 << 20


@dataclasses.dataclass(frozen=True)
class Check:
    """One line of the page.

    Attributes:
      name: what was checked.
      found: the result, in words.
      advice: what to do; empty if the check passed.
    """

    name: str
    found: str
    advice: str = ""


def examine(workdir: str) -> dict:
    """Runs and prints all checks.

    Args:
      workdir: the folder whose storage is tested; "" skips that test.

    Returns:
      The checks, and `ok`: whether all of them passed.

    Raises:
      UserError: a host is missing.
    """
    from ivx.parallel import devices, hosts

    devices.configure_devices(cpu_devices=0)
    hosts.join()
    checks = [*_versions(), *_devices(), *_collectives()]
    if workdir:
        checks.append(_storage(pathlib.Path(workdir)))
    hosts.wait("doctor", seconds=600)
    print(_page(checks))
    return {
        "ok": not any(check.advice for check in checks),
        "checks": [dataclasses.asdict(check) for check in checks],
    }


def _versions() -> list[Check]:
    """Python, and whether each required package has a supported version."""
    python = Check("python", f"{platform.python_version()}, {os.cpu_count()} cores")
    try:
        lines = importlib.metadata.requires("ivx") or ()
    except importlib.metadata.PackageNotFoundError:
        lines = ()
    # Requirements of extras have a marker.
    required = [Requirement(line) for line in lines if ";" not in line]
    if not required:
        summary = "ivx is not installed as a package: required versions unknown"
        return [python, Check("packages", summary)]
    differences = []
    for requirement in required:
        try:
            installed = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            differences.append(f"{requirement.name} absent, required {requirement.specifier}")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            differences.append(f"{requirement.name} {installed}, required {requirement.specifier}")
    advice = "install ivx again: pip install -e ." if differences else ""
    summary = "; ".join(differences) or f"all {len(required)} required packages are supported"
    return [python, Check("packages", summary, advice)]


def _devices() -> list[Check]:
    """Kinds, counts and memory."""
    import jax

    first = jax.local_devices()[0]
    kinds = {device.device_kind for device in jax.devices()}
    slices = {getattr(device, "slice_index", 0) for device in jax.devices()}
    summary = (
        f"{jax.device_count()} of {', '.join(sorted(kinds))} ({first.platform}),"
        f" {jax.local_device_count()} on this host"
    )
    if len(slices) > 1:
        summary += f", in {len(slices)} slices: mesh.replica must be a multiple"
    advice = "" if len(kinds) == 1 else "use devices of one kind: a run cannot mix them"
    limit = (first.memory_stats() or {}).get("bytes_limit")
    spaces = ", ".join(memory.kind for memory in first.addressable_memories())
    size = f"{limit / 2**30:.1f} GiB per device" if limit else "of unknown size"
    memory = Check("memory", f"{size}; kinds: {spaces}")
    return [Check("devices", summary, advice), memory, _host_memory()]


def _host_memory() -> Check:
    """Memory of this host, as far as its control group lets the process use it."""
    memory = available_memory.of_host()
    if memory is None:
        return Check("host", "memory of unknown size")
    within = ", limited by its control group" if memory.limited else ""
    total, available = memory.total / 2**30, memory.available / 2**30
    return Check("host", f"{available:.1f} of {total:.1f} GiB of memory available{within}")


def _collectives() -> list[Check]:
    """The result and time of a sum over all devices, and the time of a barrier over all hosts."""
    import jax
    import jax.numpy as jnp

    from ivx.parallel import hosts, sharding
    from ivx.parallel.mesh import AXES, make_mesh

    mesh = make_mesh(dict.fromkeys(AXES, 1) | {"fsdp": -1})
    spec = sharding.preferred_spec(("pack", None), mesh)
    rows = mesh.size
    make = jax.jit(
        lambda: jnp.ones((rows, _ARRAY_BYTES // 4), jnp.float32),
        out_shardings=jax.sharding.NamedSharding(mesh, spec),
    )
    add = jax.jit(lambda array: array.sum(0), out_shardings=sharding.replicated(mesh))
    ones = make()
    correct = float(add(ones)[0]) == rows
    seconds = _fastest(lambda: jax.block_until_ready(add(ones)))
    summary = f"{_ARRAY_BYTES >> 20} MiB per device summed over {rows} in {1e3 * seconds:.1f} ms"
    advice = "" if correct else "the sum is wrong: replace the faulty device or link"
    checks = [Check("mesh", summary, advice)]
    if jax.process_count() > 1:
        seconds = _fastest(lambda: hosts.wait("doctor's clock", seconds=60))
        summary = f"{jax.process_count()} hosts, a barrier takes {1e3 * seconds:.1f} ms"
        checks.append(Check("hosts", summary))
    return checks


def _fastest(function: Callable[[], object], repeats: int = 3) -> float:
    """Seconds of the fastest of several calls, after one warm-up call."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def _storage(folder: pathlib.Path) -> Check:
    """Writes, syncs, renames and reads a file, as checkpoints do."""
    import jax

    partial = folder / f".doctor-{jax.process_index()}.partial"
    final, data = partial.with_suffix(".whole"), os.urandom(1 << 20)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        with partial.open("wb") as file:
            for _ in range(_FILE_BYTES >> 20):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(final)
        seconds = time.perf_counter() - start
        equal = final.read_bytes() == data * (_FILE_BYTES >> 20)
        volume = os.statvfs(folder)
    except OSError as error:
        return Check("storage", f"{folder}: {error.strerror}", "give a writable --workdir")
    finally:
        for path in (partial, final):
            with contextlib.suppress(OSError):
                path.unlink()
    free = volume.f_bavail * volume.f_frsize / 2**30
    summary = f"{folder}: {_FILE_BYTES / 1e6 / seconds:.0f} MB/s written, {free:,.1f} GiB free"
    advice = "" if equal else "the file that was read differs from the one written: check the disk"
    return Check("storage", summary, advice)


def _page(checks: list[Check]) -> str:
    """The result as text."""
    lines = []
    for check in checks:
        lines.append(f"{'wrong' if check.advice else 'ok':5s} {check.name:9s} {check.found}")
        if check.advice:
            lines.append(f"{'':15s} -> {check.advice}")
    return "\n".join(lines)
