"""A video as a folder of its frames, 00000001.jpg and so on: videos that were sampled before."""

import functools
import pathlib
from collections.abc import Callable

import numpy as np
from etils import epath

from data_pipelines import nearby
from data_pipelines.image import decode as image_decode
from data_pipelines.media_error import MediaError
from data_pipelines.prepared import shards
from data_pipelines.video.info import VideoInfo, still
from data_pipelines.video.limits import USUAL_LIMITS, Limits, Meter

NAME = "{:08d}.jpg"
# Files by their names, for which no remote file system is asked.
_FILES = {".mp4", ".avi", ".mov", ".webm", ".flv", ".wmv", ".mkv", ".rmvb", ".ts", ".m4v", ".gif"}


def is_folder(path: str) -> bool:
    """Whether `path` is a folder, here, remote, or in shards."""
    if shards.frames(path):
        return True
    if not nearby.is_remote(path):
        return pathlib.Path(path).is_dir()
    return pathlib.PurePosixPath(path).suffix.lower() not in _FILES and _is_remote_folder(path)


def probe(path: str, limits: Limits = USUAL_LIMITS) -> VideoInfo:
    """Counts the frames; their rate is not known.

    Raises:
      MediaError: there are none, one is missing, or the first cannot be read.
    """
    found = frames(path)
    with nearby.local(found[0]) as file:
        size = image_decode.probe(file, limits)
    return VideoInfo(len(found), 1.0, size.width, size.height, timed=False)


def frames(path: str) -> list[str]:
    """The addresses of all frames.

    Raises:
      MediaError: there are none, or one is missing.
    """
    if found := shards.frames(path):
        return found
    with nearby.remote_errors(path):
        names = {file.name for file in epath.Path(path).iterdir()}
    count = sum(name.endswith(".jpg") for name in names)
    missing = next((n for n in range(1, count + 1) if NAME.format(n) not in names), None)
    if not count or missing:
        raise MediaError(
            f"{path}: no {NAME.format(missing or 1)} in this folder of frames", "missing"
        )
    return [_frame(path, index) for index in range(count)]


def read_frames(
    path: str,
    info: VideoInfo,
    indices: np.ndarray,
    convert: Callable[[np.ndarray], np.ndarray],
    meter: Meter,
) -> list[np.ndarray]:
    """As `decode.read_frames`; the number of frames in the folder is not checked.

    Raises:
      MediaError: a frame is missing or damaged, or of another size than said.
    """
    shape = still(info.width, info.height)
    kept, stored = {}, shards.frames(path)
    for index in np.unique(indices):
        if stored and index >= len(stored):
            raise MediaError(f"{path}: no frame {index + 1}", "missing")
        with nearby.local(stored[index] if stored else _frame(path, int(index))) as file:
            picture = image_decode.read(file, shape, meter.limits)
        meter.tick(path)
        meter.add(path, picture.nbytes)
        kept[index] = convert(picture)
    return [kept[index] for index in indices]


def _frame(path: str, index: int) -> str:
    return f"{path.rstrip('/')}/{NAME.format(index + 1)}"


@functools.lru_cache(maxsize=2**16)
def _is_remote_folder(path: str) -> bool:
    with nearby.remote_errors(path):
        return epath.Path(path).is_dir()
