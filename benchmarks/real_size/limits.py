"""What a step may take, and what this machine can do at best.

    memory  1.3 times the float32 parameters plus 1 GiB to read, answer or write; what
            `ivx.from_config.memory_forecast` says for a conversion or a training step
    time    start-up, and bytes read and written at the pace of the disk, and FLOPs at the pace of a
            float32 matrix product; no program is faster

A model of 8B is extrapolated by parameters: what exceeds a bare start of ivx is multiplied by the
ratio of the parameter counts.
"""

import dataclasses
import os
import pathlib
import time

import numpy as np

READ_SHARE, READ_FIXED = 1.3, 2**30
_FILE_BYTES, _SIDE = 512 << 20, 2048


@dataclasses.dataclass(frozen=True)
class Machine:
    """Measured paces.

    Attributes:
      flops: of a float32 matrix product, per second.
      written: bytes per second to the disk, synced.
      read: bytes per second from the disk, not cached.
      start_seconds: of a command that does nothing.
      start_bytes: its peak memory.
    """

    flops: float
    written: float
    read: float
    start_seconds: float
    start_bytes: int

    def seconds(self, read: float, written: float, flops: float) -> float:
        """The least time of a command."""
        moved = read / self.read + written / self.written
        return self.start_seconds + moved + flops / self.flops


def reading(parameters: int) -> float:
    """Most bytes of a command that reads a model."""
    return READ_SHARE * 4 * parameters + READ_FIXED


def extrapolated(value: float, start: float, ratio: float) -> float:
    """A peak or a time at `ratio` times the parameters."""
    return start + max(value - start, 0.0) * ratio


def product_pace() -> float:
    """FLOP/s of the fastest of a few products of square matrices."""
    a = np.ones((_SIDE, _SIDE), np.float32)
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        best = max(best, 2 * _SIDE**3 / (time.perf_counter() - start))
    return best


def disk_paces(folder: pathlib.Path) -> tuple[float, float]:
    """Bytes per second written to and read from a file in a folder."""
    path, block = folder / "pace.bin", os.urandom(1 << 20)
    try:
        start = time.perf_counter()
        with path.open("wb") as file:
            for _ in range(_FILE_BYTES >> 20):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        written = _FILE_BYTES / (time.perf_counter() - start)
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            start = time.perf_counter()
            while file.read(1 << 22):
                pass
        return written, _FILE_BYTES / (time.perf_counter() - start)
    finally:
        path.unlink(missing_ok=True)
