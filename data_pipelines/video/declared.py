"""Counts the samples that an mp4 or mov file declares, before libavformat makes an index of them.

A few bytes declare millions of samples, since sizes and durations may be constant. The index takes
36 bytes for each, so the counts are read first, from the headers of boxes alone:

    moov > trak > mdia > minf > stbl > stsz    samples of a track
                                       stsc    samples of each chunk
           trak > edts > elst                  edits, each of which repeats the samples it shows
    moof > traf > trun                         samples of a fragment
    sidx, tfra                                 fragments that are listed elsewhere

Other containers hold bytes for each entry of their index; `limit_allocations` bounds the rest.
"""

import ctypes
import dataclasses
import functools
import pathlib
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO

import av
import numpy as np

from data_pipelines.media_error import MediaError
from data_pipelines.video.limits import USUAL_LIMITS, Limits

# Boxes that contain boxes. libavformat also takes a movie from the content of `free` and `hoov`.
_CONTAINERS = frozenset(
    {b"moov", b"hoov", b"free", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"udta", b"meta"}
    | {b"moof", b"traf", b"mvex", b"mfra"}
)
_MAX_DEPTH = 12
_META_BYTES = 256
# A day of fragments of one second has a million boxes.
_MAX_BOXES = 4_000_000
# Indexed samples per allowed frame, since sound has samples too, and per byte of the file: a sample
# takes a byte at least, and several edits may show it.
_PER_FRAME, _PER_BYTE = 2, 4
# Bytes of a table that is read. A day of sound has two million chunks, one per frame, of 12 bytes.
_MAX_TABLE = 2**26
# libavformat indexes uncompressed sound by blocks of samples.
_BLOCK = 1024
# Bytes of a pixel of the largest format, RGBA with 16 bits.
_PIXEL_BYTES = 8

# Where the content of a box starts and ends.
Range = tuple[int, int]


@dataclasses.dataclass
class _Track:
    """What one track declares; of repeated boxes, what takes most memory.

    Attributes:
      samples: their number.
      edits: parts of the track that are shown, in order.
      sound: whether it is sound.
      chunks: runs of samples in the file.
      runs: the boxes that say how many samples a chunk has.
      timings: (rows, duration of the first) of each table of durations.
    """

    samples: int = 0
    edits: int = 0
    sound: bool = False
    chunks: int = 0
    runs: list[Range] = dataclasses.field(default_factory=list)
    timings: list[tuple[int, int]] = dataclasses.field(default_factory=list)


def check(path: pathlib.Path, limits: Limits) -> None:
    """Checks the counts of a file; one that is no mp4 has none.

    Raises:
      MediaError: it declares more samples than a video of its size and within the limits can have.
    """
    tracks, samples, fragments = [], 0, 0
    size = path.stat().st_size
    with path.open("rb") as file:
        for name, start, end in _boxes(file, path, size):
            if name == b"trak":
                tracks.append(_Track())
            elif name == b"trun":
                samples += _word(file, start, 1)
            elif name == b"moof":
                fragments += 1
            elif name in (b"sidx", b"tfra"):
                fragments += (end - start) // 11  # the smallest row
            elif tracks:
                _add(file, path, tracks[-1], name, start, end)
        samples += sum(_indexed(file, path, track) for track in tracks)
    most = min(_PER_FRAME * max(limits.frames, USUAL_LIMITS.frames), _PER_BYTE * size)
    # Each fragment is listed for each track.
    if max(samples, fragments * len(tracks)) > most:
        raise MediaError(
            f"{path}: declares more than {most:,} samples, the most for its size; cut it into"
            " shorter files",
            "too long",
        )


def _add(
    file: BinaryIO, path: pathlib.Path, track: _Track, name: bytes, start: int, end: int
) -> None:
    """Adds a box of a track."""
    if name in (b"stsz", b"stz2"):
        track.samples = max(track.samples, _word(file, start, 2))
    elif name in (b"stco", b"co64"):
        track.chunks = max(track.chunks, min(_word(file, start, 1), (end - start) // 4))
    elif name == b"hdlr":
        track.sound |= _word(file, start, 2) == int.from_bytes(b"soun")
    elif name == b"stts":
        track.timings.append((_word(file, start, 1), _word(file, start, 3)))
    elif name == b"stsc":
        track.runs.append((start, end))
    elif name == b"elst":
        row = ">QqI" if _word(file, start, 0) >> 24 == 1 else ">IiI"
        rows = struct.iter_unpack(row, _rows(file, path, start, end, struct.calcsize(row)))
        # A first time of -1 shows nothing.
        track.edits = max(track.edits, sum(first != -1 for _, first, _ in rows))


def _rows(file: BinaryIO, path: pathlib.Path, start: int, end: int, size: int) -> bytes:
    """The rows of `size` bytes of the table in a box, as many as it declares and holds.

    Raises:
      MediaError: the table is longer than any within the limits; its file may take no disk.
    """
    count = min(_word(file, start, 1), max(0, end - start - 8) // size)
    if count * size > _MAX_TABLE:
        raise MediaError(f"{path}: a table of {count:,} rows is too long", "too long")
    file.seek(start + 8)
    rows = file.read(count * size)
    return rows[: len(rows) // size * size]


def _indexed(file: BinaryIO, path: pathlib.Path, track: _Track) -> int:
    """Entries of the index of a track."""
    if not (track.sound and track.timings and set(track.timings) == {(1, 1)}):
        return track.samples * max(1, track.edits)
    blocks = 0
    for start, end in track.runs:
        rows = np.frombuffer(_rows(file, path, start, end, 12), ">u4").reshape(-1, 3)
        firsts = np.append(rows[:, 0], track.chunks + 1).astype(np.int64)
        chunks = np.clip(np.diff(firsts), 0, track.chunks)
        blocks = max(blocks, int((chunks * -(-rows[:, 1].astype(np.int64) // _BLOCK)).sum()))
    return blocks * max(1, track.edits)


def _word(file: BinaryIO, start: int, index: int) -> int:
    """A number of 32 bits in a box; 0 beyond the end of the file."""
    file.seek(start + 4 * index)
    return int.from_bytes(file.read(4).ljust(4, b"\0"))


def _boxes(file: BinaryIO, path: pathlib.Path, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Yields (name, start and end of the content) of all boxes, a container before its content.

    Raises:
      MediaError: there are too many boxes, or they are nested too deeply.
    """
    pending = [(0, size)]
    for _ in range(_MAX_BOXES):
        while pending and pending[-1][0] + 8 > pending[-1][1]:
            pending.pop()
        if not pending:
            return
        start, end = pending.pop()
        file.seek(start)
        header = file.read(16)
        length, name, content = int.from_bytes(header[:4]), header[4:8], start + 8
        if length == 1:
            length, content = int.from_bytes(header[8:]), start + 16
        elif length == 0:
            length = end - start
        stop = min(start + length, end)
        if stop < content:
            continue
        pending.append((stop, end))
        yield name, content, stop
        if name in _CONTAINERS:
            if len(pending) > _MAX_DEPTH:
                raise MediaError(f"{path}: its boxes are nested too deeply", "unreadable")
            if name == b"meta":  # its boxes begin with hdlr, after a version that some omit
                file.seek(content)
                content += max(0, file.read(_META_BYTES).find(b"hdlr") - 4)
            pending.append((content, stop))
    raise MediaError(f"{path}: has more than {_MAX_BOXES:,} boxes", "too long")


def limit_allocations(limits: Limits) -> None:
    """Limits each allocation of FFmpeg, in this process, to the largest frame that is allowed."""
    _av_max_alloc()(_PIXEL_BYTES * limits.frame_pixels + 2**20)


@functools.cache
def _av_max_alloc() -> Callable[[int], None]:
    """The function `av_max_alloc` of the libavutil that PyAV is linked to."""
    function = ctypes.CDLL(av._core.__file__).av_max_alloc
    function.argtypes, function.restype = (ctypes.c_size_t,), None
    return function
