"""Writes any number of damaged videos from a few good ones and a seed, and reads them.

    python -m tests.damage FOLDER COUNT    prints one JSON line per file

Tests run it as a subprocess, so a decoder that crashes or hangs does not take the tests with it.
"""

import dataclasses
import json
import math
import pathlib
import re
import resource
import shutil
import struct
import sys
import time
from collections.abc import Callable

import numpy as np

from data_pipelines import media
from data_pipelines.media_error import MediaError
from data_pipelines.video.info import VideoInfo
from data_pipelines.video.limits import Limits, Meter
from tests import odd_videos

# Small enough that damaged files reach them.
LIMITS = Limits(frame_pixels=1 << 22, frames=5000, hours=1.0, decode_gib=0.5, decode_seconds=20.0)
SEEDS = ("h264", "open_groups", "pyramid", "transport", "h264_avi", "mpeg4", "vp9", "gif", "mpeg2")
MORE_SEEDS = ("hevc", "av1", "ten_bits", "hevc_ten_bits", "interlaced", "rotated", "mjpeg")
MORE_SEEDS += ("mpeg4_avi", "odd_size", "one_frame", "variable_rate", "late_start", "hevc_layers")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of reading a damaged file.

    Attributes:
      name: of the file.
      damage: the name of the damage function.
      cause: the cause of the `MediaError`, "" if the file was read.
      message: the message of the `MediaError`, "" if the file was read.
      megabytes: memory of the process afterwards.
      seconds: processor time.
    """

    name: str
    damage: str
    cause: str
    message: str
    megabytes: float
    seconds: float


def bit_flips(data: bytearray, rng: np.random.Generator) -> None:
    """Flips one to a thousand bits anywhere."""
    for place in rng.integers(0, len(data), int(10 ** rng.uniform(0, 3))):
        data[place] ^= 1 << int(rng.integers(8))


def header_flips(data: bytearray, rng: np.random.Generator) -> None:
    """Overwrites bytes at either end, where containers keep their tables."""
    for place in rng.integers(0, min(len(data), 2000), int(rng.integers(1, 30))):
        data[place if rng.random() < 0.5 else -1 - place] = int(rng.integers(256))


def cut_end(data: bytearray, rng: np.random.Generator) -> None:
    """Removes the end."""
    del data[int(rng.integers(0, len(data))) :]


def cut_beginning(data: bytearray, rng: np.random.Generator) -> None:
    """Removes the beginning."""
    del data[: int(rng.integers(1, len(data)))]


def zeroed(data: bytearray, rng: np.random.Generator) -> None:
    """Overwrites a range with zeros, as after an interrupted download."""
    start = int(rng.integers(0, len(data)))
    length = min(int(rng.integers(1, 4096)), len(data) - start)
    data[start : start + length] = bytes(length)


def shuffled(data: bytearray, rng: np.random.Generator) -> None:
    """Swaps blocks of the file."""
    blocks = [data[i : i + 512] for i in range(0, len(data), 512)]
    first, second = rng.integers(0, len(blocks), 2)
    blocks[first], blocks[second] = blocks[second], blocks[first]
    data[:] = b"".join(blocks)


def doubled(data: bytearray, rng: np.random.Generator) -> None:
    """Repeats a range of bytes."""
    start = int(rng.integers(0, len(data)))
    data[start:start] = data[start : start + int(rng.integers(1, 4096))]


def extreme_numbers(data: bytearray, rng: np.random.Generator) -> None:
    """Sets sizes, counts, durations and times in the tables to extreme values."""
    names = rb"tkhd|mvhd|mdhd|stts|ctts|stsz|stsc|stco|stss|elst|avc1|hvc1|hev1|av01|mp4v|avcC|trex"
    places = [found.end() for found in re.finditer(names, bytes(data))]
    places = places or rng.integers(0, max(1, min(len(data), 600)), 8).tolist()
    extremes = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFF, 0xF0F0F0F0)
    for _ in range(int(rng.integers(1, 6))):
        place = places[rng.integers(len(places))] + 4 * int(rng.integers(0, 24))
        if place + 4 <= len(data):
            data[place : place + 4] = struct.pack(">I", extremes[rng.integers(len(extremes))])


def giant_size(data: bytearray, rng: np.random.Generator) -> None:
    """Declares 65,000 pixels per side in an mp4; other containers get `extreme_numbers`."""
    places = [found.start() for found in re.finditer(rb"avc1|hvc1|hev1|av01|mp4v", bytes(data))]
    if not places:
        extreme_numbers(data, rng)
    for place in places:
        data[place + 28 : place + 32] = struct.pack(">HH", 65000, 65000)


def no_duration(data: bytearray, rng: np.random.Generator) -> None:
    """Sets all frame durations of an mp4 to zero; other containers get `extreme_numbers`."""
    places = [found.end() for found in re.finditer(b"stts", bytes(data))]
    if not places:
        extreme_numbers(data, rng)
    for place in places:
        data[place + 12 : place + 16] = bytes(4)


def text(data: bytearray, rng: np.random.Generator) -> None:
    """Replaces the content with text, sometimes a playlist that names other files."""
    kinds = (b"not a video", b"#EXTM3U\n/etc/passwd\n", b"ffconcat version 1.0\nfile h264.mp4\n")
    data[:] = kinds[rng.integers(len(kinds))] * int(rng.integers(1, 100))


def noise(data: bytearray, rng: np.random.Generator) -> None:
    """Replaces the content with random bytes, sometimes after an intact header."""
    keep = int(rng.integers(0, 64)) * int(rng.integers(0, 2))
    data[keep:] = rng.bytes(int(rng.integers(1, 20000)))


def nothing(data: bytearray, rng: np.random.Generator) -> None:
    """Removes the content."""
    data.clear()


DAMAGES: tuple[Callable, ...] = (
    bit_flips,
    header_flips,
    cut_end,
    cut_beginning,
    zeroed,
    shuffled,
    doubled,
    extreme_numbers,
    giant_size,
    no_duration,
    text,
    noise,
    nothing,
)
# The damages most likely to reach new decoder code; the others soon repeat.
_PRODUCTIVE = (bit_flips, header_flips, extreme_numbers, cut_end, zeroed)


def make(folder: pathlib.Path, count: int, seed: int = 0) -> list[tuple[pathlib.Path, str]]:
    """Writes `count` files; returns (path, name of the damage) for each."""
    rng = np.random.default_rng(seed)
    seeds = [odd_videos.make(name, folder) for name in SEEDS]
    if count > 100:
        seeds += [odd_videos.make(name, folder) for name in MORE_SEEDS]
        plain = odd_videos.make("no_b_frames", folder)
        seeds.append(odd_videos.negative_times(plain, folder / "negative.ts", before=7))
        seeds.append(odd_videos.jump_ahead(plain, folder / "jumping.mp4"))
        seeds.append(odd_videos.edit_list(plain, folder / "edited.mp4", hidden=5))
        seeds.append(odd_videos.audio_only(folder / "audio.mp4"))
        seeds.append(odd_videos.frame_folder(folder / "frames"))
    # Or each would always meet the same damage.
    assert math.gcd(len(seeds), len(DAMAGES) * len(_PRODUCTIVE)) == 1
    found = []
    for number in range(count):
        source = seeds[number % len(seeds)]
        # Every damage in turn, then those that find most.
        turn, place = divmod(number, len(DAMAGES))
        damage = _PRODUCTIVE[number % len(_PRODUCTIVE)] if turn % 2 else DAMAGES[place]
        # Sometimes with the suffix of another container.
        suffix = seeds[rng.integers(len(seeds))].suffix if rng.random() < 0.1 else source.suffix
        path = folder / f"{number:04d}_{source.stem}_{damage.__name__}{suffix}"
        if source.is_dir():
            _damage_folder(source, path, damage, rng)
        else:
            _damage_file(source, path, damage, rng)
        found.append((path, damage.__name__))
    return found


def _damage_file(source, path, damage, rng: np.random.Generator) -> None:
    data = bytearray(source.read_bytes())
    damage(data, rng)
    path.write_bytes(data)


def _damage_folder(source, path, damage, rng: np.random.Generator) -> None:
    """Damages one frame or a third of the frames, and sometimes deletes one."""
    shutil.copytree(source, path)
    frames = sorted(path.iterdir())
    for frame in rng.choice(frames, len(frames) // 3 if rng.random() < 0.3 else 1, replace=False):
        _damage_file(frame, frame, damage, rng)
    if rng.random() < 0.2:
        frames[rng.integers(len(frames))].unlink()


def read(path: pathlib.Path, damage: str) -> Outcome:
    """Probes a file and reads a few frames of it, as training would.

    Errors other than `MediaError` are bugs and are raised.
    """
    start, cause, message = time.process_time(), "", ""
    try:
        info = media.VideoRef(str(path), None).resolved(LIMITS)
        indices = np.round(np.linspace(0, info.num_frames - 1, 8)).astype(int)
        pictures = media.read_video(str(path), info, indices, _sample, Meter(LIMITS))
        assert len(pictures) == 8
    except MediaError as error:
        cause, message = error.cause, str(error)
    return Outcome(
        path.name, damage, cause, message, _megabytes(), round(time.process_time() - start, 2)
    )


def described(kind: odd_videos.Kind) -> VideoInfo:
    """The correct annotation of the undamaged file."""
    return VideoInfo(kind.frames, float(odd_videos.RATE), *kind.size)


def _sample(picture: np.ndarray) -> np.ndarray:
    return picture[::8, ::8].copy()


def _megabytes() -> float:
    """Current memory of this process."""
    with open("/proc/self/statm") as numbers:
        pages = int(numbers.read().split()[1])
    return round(pages * resource.getpagesize() / 2**20, 1)


def _peak_megabytes() -> float:
    """Peak memory of this process; `ru_maxrss` would include that of the parent process."""
    status = pathlib.Path("/proc/self/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def main(folder: str, count: str) -> None:
    for path, damage in make(pathlib.Path(folder), int(count)):
        print(json.dumps({"reading": path.name}), flush=True)
        print(json.dumps(dataclasses.asdict(read(path, damage))), flush=True)
    print(json.dumps({"peak": _peak_megabytes()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
