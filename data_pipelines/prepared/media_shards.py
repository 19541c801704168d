"""Writes one shard of media: each file is probed and stored, or recorded with its error."""

import dataclasses
import hashlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

import numpy as np

from data_pipelines import local_copy
from data_pipelines.image import decode as image_decode
from data_pipelines.media_error import MediaError
from data_pipelines.prepared import proxy, shards
from data_pipelines.video import decode, folder, frames
from data_pipelines.video.info import VideoInfo
from data_pipelines.video.limits import Limits


@dataclasses.dataclass(frozen=True)
class MediaFile:
    """A file, or a folder of frames.

    Attributes:
      kind: "video" or "image".
      path: an address that `local_copy` can open, or a folder of frames.
      keep_original: never replace it with a proxy, because annotations refer to single frames.
    """

    kind: str
    path: str
    keep_original: bool


@dataclasses.dataclass(frozen=True)
class MediaJob:
    """A media shard to write.

    Attributes:
      stem: path of the shard without suffix.
      files: the contents, in order.
      proxy_fps: frames per second of proxies; 0 stores the original bytes.
      limits: on the files.
    """

    stem: pathlib.Path
    files: tuple[MediaFile, ...]
    proxy_fps: float
    limits: Limits


def write(job: MediaJob) -> None:
    """Writes the shard; an unusable file gets an entry with its error and no record."""
    writer = shards.Writer(job.stem)
    entries, times = [], []
    for file in job.files:
        entry = {"kind": file.kind, "path": file.path}
        try:
            fields, frame_times = _store(file, job, writer)
        except MediaError as error:
            entries.append(entry | {"error": str(error)})
            continue
        entries.append(entry | fields)
        times.append(frame_times)
    bounds = np.cumsum([0] + [len(part) for part in times])
    columns = {"times": np.concatenate([*times, np.zeros(0)]), "bounds": bounds}
    writer.finish(columns, {"media": entries})


def _store(file: MediaFile, job: MediaJob, writer: shards.Writer) -> tuple[dict, np.ndarray]:
    """Writes the records of a file, or of the frames of a folder.

    Returns:
      The fields of its entry, and the time of each frame in seconds: float64 [N].
    """
    if file.kind == "video" and folder.is_folder(file.path):
        return _store_folder(file.path, job, writer)
    with local_copy.local(file.path) as path:
        if file.kind == "image":
            info = image_decode.probe(path, job.limits)
            return _store_file(path, info, writer), np.zeros(1)
        info, times = decode.probe(path, job.limits), decode.frame_times(path, job.limits)
        if file.keep_original or not job.proxy_fps or info.rate <= job.proxy_fps:
            return _store_file(path, info, writer), times
        with tempfile.NamedTemporaryFile(suffix=".mp4") as copy:
            proxy.encode(path, info, job.proxy_fps, copy.name, job.limits)
            # The proxy is probed, so its entry describes what a reader will decode.
            fields = _store_file(copy.name, decode.probe(copy.name, job.limits), writer)
    indices = frames.on_show(times, proxy.indices(info, job.proxy_fps), info.rate)
    return fields | {"proxy": True}, times[indices]


def _store_file(path: str, info: VideoInfo, writer: shards.Writer) -> dict:
    checksum, size = hashlib.sha256(), 0
    numbers = []
    for piece in _pieces(path):
        checksum.update(piece)
        size += len(piece)
        numbers.append(writer.add(piece))
    fields = _entry_fields(info, size, checksum.hexdigest(), numbers[0])
    return fields | ({"pieces": len(numbers)} if len(numbers) > 1 else {})


def _store_folder(path: str, job: MediaJob, writer: shards.Writer) -> tuple[dict, np.ndarray]:
    info = folder.probe(path, job.limits)
    checksum, size = hashlib.sha256(), 0
    numbers = []
    for frame in folder.frames(path):
        with local_copy.local(frame) as file:
            first, *more = _pieces(file)
        if more:
            raise MediaError(
                f"{frame}: a frame of a folder may have at most {shards.PIECE:,} bytes"
            )
        checksum.update(first)
        size += len(first)
        numbers.append(writer.add(first))
    fields = _entry_fields(info, size, checksum.hexdigest(), numbers[0])
    # Only annotations know the rate of a folder, so the frames have no times.
    return fields | {"frames": len(numbers)}, np.full(len(numbers), np.nan)


def _entry_fields(info: VideoInfo, size: int, sha256: str, record: int) -> dict:
    return {"info": dataclasses.asdict(info), "bytes": size, "sha256": sha256, "record": record}


def _pieces(path: str) -> Iterator[bytes]:
    try:
        with pathlib.Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not 0 < size <= local_copy.MAX_BYTES:
                raise MediaError(
                    f"{path}: {size:,} bytes; 1 to {local_copy.MAX_BYTES:,} are allowed"
                )
            while piece := file.read(shards.PIECE):
                yield piece
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error})") from error
