"""One shard of media: every file is read, probed and written, or named with what is wrong."""

import dataclasses
import hashlib
import pathlib
import tempfile

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


@dataclasses.dataclass(frozen=True)
class _Read:
    """The bytes of a file, or of each frame of a folder; when each frame is shown, in seconds."""

    records: list[bytes]
    info: VideoInfo
    times: np.ndarray
    is_folder: bool = False
    is_proxy: bool = False


def write(job: MediaJob) -> None:
    """Writes the shard; a file that cannot be used has an entry without a record."""
    writer = shards.Writer(job.stem)
    entries, times = [], []
    for file in job.files:
        entry = {"kind": file.kind, "path": file.path}
        try:
            found = _read(file, job)
        except MediaError as error:
            entries.append(entry | {"error": str(error)})
            continue
        checksum = hashlib.sha256()
        numbers = []
        for record in found.records:
            checksum.update(record)
            numbers.append(writer.add(record))
        entry |= {
            "info": dataclasses.asdict(found.info),
            "bytes": sum(map(len, found.records)),
            "sha256": checksum.hexdigest(),
            "record": numbers[0],
        }
        entry |= {"frames": len(numbers)} if found.is_folder else {}
        entries.append(entry | ({"proxy": True} if found.is_proxy else {}))
        times.append(found.times)
    bounds = np.cumsum([0] + [len(part) for part in times])
    columns = {"times": np.concatenate([*times, np.zeros(0)]), "bounds": bounds}
    writer.finish(columns, {"media": entries})


def _read(file: MediaFile, job: MediaJob) -> _Read:
    if file.kind == "video" and folder.is_folder(file.path):
        info = folder.probe(file.path, job.limits)
        records = [_bytes(frame) for frame in folder.frames(file.path)]
        # Of their rate only annotations know.
        return _Read(records, info, np.full(len(records), np.nan), is_folder=True)
    with nearby.local(file.path) as path:
        if file.kind == "image":
            info = image_decode.probe(path, job.limits)
            return _Read([_bytes(path)], info, np.zeros(1))
        info, times = decode.probe(path, job.limits), decode.frame_times(path, job.limits)
        if file.whole or not job.proxy_fps or info.rate <= job.proxy_fps:
            return _Read([_bytes(path)], info, times)
        data = proxy.encode(path, info, job.proxy_fps, job.limits)
    # Not as it was asked for, but as it will be read.
    with tempfile.NamedTemporaryFile(suffix=".mp4") as copy:
        copy.write(data)
        copy.flush()
        made = decode.probe(copy.name, job.limits)
    return _Read([data], made, times[proxy.indices(info, job.proxy_fps)], is_proxy=True)


def _bytes(path: str) -> bytes:
    with nearby.local(path) as file:
        try:
            size = pathlib.Path(file).stat().st_size
            if size > nearby.MAX_BYTES:
                raise MediaError(f"{path}: {size:,} bytes; allowed are {nearby.MAX_BYTES:,}")
            return pathlib.Path(file).read_bytes()
        except OSError as error:
            raise MediaError(f"{path}: cannot be read ({error})") from error
