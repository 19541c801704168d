"""Memory that this host and its devices have left.

A host has what Linux calls available, but no more than its control groups leave: in a container the
limit of the group ends a process long before the host is full. Version 1 and 2 of control groups
are read, for the group of this process and for all groups around it.
"""

import dataclasses
import pathlib

_GROUPS = "proc/self/cgroup"
_MOUNT = pathlib.PurePath("sys/fs/cgroup")


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of memory.

    Attributes:
      total: of the host, or of its control group if that has less.
      available: of these, what a program can still take.
      limited: whether a control group, and not the host, sets `available`.
    """

    total: int
    available: int
    limited: bool = False


def of_host(root: pathlib.Path = pathlib.Path("/")) -> Memory | None:
    """The memory of this host; None where the kernel does not report it.

    Args:
      root: folder of `proc` and `sys`.
    """
    sizes = _table(root / "proc/meminfo", unit=1024)
    if not {"MemTotal:", "MemAvailable:"} <= sizes.keys():
        return None
    memory = Memory(sizes["MemTotal:"], sizes["MemAvailable:"])
    for limit, left in _groups(root):
        total = min(memory.total, limit)
        if left < memory.available:
            memory = Memory(total, max(left, 0), limited=True)
        else:
            memory = dataclasses.replace(memory, total=total)
    return memory


def of_device() -> Memory | None:
    """The memory of the fullest device of this host; None on a CPU, which shares the host's."""
    import jax

    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    sizes = [
        Memory(stat["bytes_limit"], stat["bytes_limit"] - stat["bytes_in_use"])
        for stat in stats
        if {"bytes_limit", "bytes_in_use"} <= stat.keys()
    ]
    if jax.default_backend() == "cpu" or not sizes:
        return None
    return min(sizes, key=lambda memory: memory.available)


def _groups(root: pathlib.Path) -> list[tuple[int, int]]:
    """Limit and free bytes of each control group with a limit, from this process outwards."""
    try:
        lines = (root / _GROUPS).read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            names = ("memory.max", "memory.current", "inactive_file")
            mount = root / _MOUNT
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            mount = root / _MOUNT / "memory"
        else:
            continue
        # A container may see its own group as the root, under the path that the host knows.
        inner = pathlib.PurePath(path.lstrip("/"))
        for group in (inner, *inner.parents) if path.strip("/") else (inner,):
            if (sizes := _group(mount / group, *names)) is not None:
                found.append(sizes)
    return found


def _group(
    folder: pathlib.Path, limit_name: str, usage_name: str, cache_name: str
) -> tuple[int, int] | None:
    """Limit and free bytes of a group; None if it has no limit."""
    try:
        limit = int((folder / limit_name).read_text())
        usage = int((folder / usage_name).read_text())
    except (OSError, ValueError):  # `max` is no number
        return None
    # The kernel gives up cached files before it ends a process.
    cached = _table(folder / "memory.stat").get(cache_name, 0)
    return limit, limit - max(usage - cached, 0)


def _table(path: pathlib.Path, unit: int = 1) -> dict[str, int]:
    """Lines of a name and a number; empty if the file cannot be read."""
    try:
        rows = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0]: unit * int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}
