"""Reads a video stored as a folder of frames 00000001.jpg, 00000002.jpg, ..., sampled earlier."""

import functools
import pathlib
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from etils import epath

from data_pipelines import local_copy, media_files
from data_pipelines.image import decode as image_decode
from data_pipelines.media_error import MediaError
from data_pipelines.prepared import shards
from data_pipelines.video.info import VideoInfo, still
from data_pipelines.video.limits import USUAL_LIMITS, Limits, Meter

NAME = "{:08d}.jpg"

T = TypeVar("T")


def is_folder(path: str) -> bool:
    """Whether `path` is a folder of frames: local, remote, or a range of shard records."""
    if shards.frames(path):
        return True
    if not local_copy.is_remote(path):
        return media_files.is_folder(path)
    suffix = pathlib.PurePosixPath(path).suffix.lower()
    return suffix not in media_files.VIDEO_SUFFIXES and _is_remote_folder(path)


def probe(path: str, limits: Limits = USUAL_LIMITS) -> VideoInfo:
    """Counts the frames and reads the size of the first; their rate is unknown.

    Raises:
      MediaError: the folder has no frames or lacks one, or the first cannot be read.
    """
    addresses = frames(path)
    with local_copy.local(addresses[0]) as file:
        size = image_decode.probe(file, limits)
    return VideoInfo(len(addresses), 1.0, size.width, size.height, timed=False)


def frames(path: str) -> list[str]:
    """Returns the addresses of all frames.

    Raises:
      MediaError: the folder has no frames or lacks one.
    """
    if addresses := shards.frames(path):
        return addresses
    with local_copy.remote_errors(path):
        names = {f.name for f in epath.Path(path).iterdir() if not media_files.is_hidden(f.name)}
    count = sum(name.endswith(".jpg") for name in names)
    missing = next((n for n in range(1, count + 1) if NAME.format(n) not in names), None)
    if not count or missing:
        raise MediaError(
            f"{path}: no {NAME.format(missing or 1)} in this folder of frames; give a video file,"
            f" or a folder of frames {NAME.format(1)} and so on",
            "missing",
        )
    return [_frame_path(path, index) for index in range(count)]


def read_frames(
    path: str,
    info: VideoInfo,
    indices: np.ndarray,
    convert: Callable[[np.ndarray], T],
    meter: Meter,
) -> list[T]:
    """Like `decode.read_frames`, but the number of frames in the folder is not checked.

    Raises:
      MediaError: a frame is missing or damaged, or its size differs from `info`.
    """
    shape = still(info.width, info.height)
    results, addresses = {}, shards.frames(path)
    for index in np.unique(indices):
        if addresses and index >= len(addresses):
            raise MediaError(f"{path}: no frame {index + 1}", "missing")
        address = addresses[index] if addresses else _frame_path(path, int(index))
        with local_copy.local(address) as file:
            picture = image_decode.read(file, shape, meter.limits)
        meter.tick(path)
        meter.add(path, picture.nbytes)
        results[index] = convert(picture)
    return [results[index] for index in indices]


def _frame_path(path: str, index: int) -> str:
    return f"{path.rstrip('/')}/{NAME.format(index + 1)}"


@functools.lru_cache(maxsize=2**16)
def _is_remote_folder(path: str) -> bool:
    with local_copy.remote_errors(path):
        return epath.Path(path).is_dir()
