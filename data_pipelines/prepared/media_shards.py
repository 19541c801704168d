"""One shard of media: every file is read, probed and written, or named with what is wrong."""

import dataclasses
import hashlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

import numpy as np

from data_pipelines import nearby
from data_pipelines.image import decode as image_decode
from data_pipelines.media_error import MediaError
from data_pipelines.prepared import proxy, shards
from data_pipelines.video import decode, folder
from data_pipelines.video.info import VideoInfo
from data_pipelines.video.limits import Limits


@dataclasses.dataclass(frozen=True)
class MediaFile:
    """A file, or a folder of frames.

    Attributes:
      kind: video or image.
      path: what `nearby` reads, or a folder.
      whole: whether it is never to be a proxy, since annotations speak of its single frames.
    """

    kind: str
    path: str
    whole: bool


@dataclasses.dataclass(frozen=True)
class MediaJob:
    """A shard to write.

    Attributes:
      stem: of the shard.
      files: what goes in.
      proxy_fps: frames a second of proxies; 0: the original bytes.
      limits: on what files may ask for.
    """

    stem: pathlib.Path
    files: tuple[MediaFile, ...]
    proxy_fps: float
    limits: Limits


def write(job: MediaJob) -> None:
    """Writes the shard; a file that cannot be used has an entry without a record."""
    writer = shards.Writer(job.stem)
    entries, times = [], []
    for file in job.files:
        entry = {"kind": file.kind, "path": file.path}
        try:
            found, shown = _store(file, job, writer)
        except MediaError as error:
            entries.append(entry | {"error": str(error)})
            continue
        entries.append(entry | found)
        times.append(shown)
    bounds = np.cumsum([0] + [len(part) for part in times])
    columns = {"times": np.concatenate([*times, np.zeros(0)]), "bounds": bounds}
    writer.finish(columns, {"media": entries})


def _store(file: MediaFile, job: MediaJob, writer: shards.Writer) -> tuple[dict, np.ndarray]:
    """Writes the records of a file, or of the frames of a folder.

    Returns what is noted of it, and when each frame is shown, in seconds: float64 [N].
    """
    if file.kind == "video" and folder.is_folder(file.path):
        return _store_folder(file.path, job, writer)
    with nearby.local(file.path) as path:
        if file.kind == "image":
            info = image_decode.probe(path, job.limits)
            return _store_file(path, info, writer), np.zeros(1)
        info, times = decode.probe(path, job.limits), decode.frame_times(path, job.limits)
        if file.whole or not job.proxy_fps or info.rate <= job.proxy_fps:
            return _store_file(path, info, writer), times
        with tempfile.NamedTemporaryFile(suffix=".mp4") as copy:
            proxy.encode(path, info, job.proxy_fps, copy.name, job.limits)
            # Not as it was asked for, but as it will be read.
            found = _store_file(copy.name, decode.probe(copy.name, job.limits), writer)
    return found | {"proxy": True}, times[proxy.indices(info, job.proxy_fps)]


def _store_file(path: str, info: VideoInfo, writer: shards.Writer) -> dict:
    checksum, size = hashlib.sha256(), 0
    numbers = []
    for piece in _pieces(path):
        checksum.update(piece)
        size += len(piece)
        numbers.append(writer.add(piece))
    found = _noted(info, size, checksum, numbers[0])
    return found | ({"pieces": len(numbers)} if len(numbers) > 1 else {})


def _store_folder(path: str, job: MediaJob, writer: shards.Writer) -> tuple[dict, np.ndarray]:
    info = folder.probe(path, job.limits)
    checksum, size = hashlib.sha256(), 0
    numbers = []
    for frame in folder.frames(path):
        with nearby.local(frame) as file:
            first, *more = _pieces(file)
        if more:
            raise MediaError(f"{frame}: a frame of a folder may have {shards.PIECE:,} bytes")
        checksum.update(first)
        size += len(first)
        numbers.append(writer.add(first))
    found = _noted(info, size, checksum, numbers[0]) | {"frames": len(numbers)}
    # Of their rate only annotations know.
    return found, np.full(len(numbers), np.nan)


def _noted(info: VideoInfo, size: int, checksum, record: int) -> dict:
    return {
        "info": dataclasses.asdict(info),
        "bytes": size,
        "sha256": checksum.hexdigest(),
        "record": record,
    }


def _pieces(path: str) -> Iterator[bytes]:
    try:
        with pathlib.Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not 0 < size <= nearby.MAX_BYTES:
                raise MediaError(f"{path}: {size:,} bytes; allowed are 1 to {nearby.MAX_BYTES:,}")
            while piece := file.read(shards.PIECE):
                yield piece
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error})") from error
