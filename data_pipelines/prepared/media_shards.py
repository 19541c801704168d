"""One shard of media: every file is read, probed and written, or named with what is wrong."""

import dataclasses
import hashlib
import pathlib
import tempfile

import numpy as np

from data_pipelines.image import decode as image_decode
from data_pipelines.media_error import MediaError
from data_pipelines.prepared import proxy, shards
from data_pipelines.video import decode


@dataclasses.dataclass(frozen=True)
class MediaJob:
    """A shard to write.

    Attributes:
      stem: of the shard.
      files: (kind, path) of each, kind being video or image.
      proxy_fps: frames a second of proxies; 0: the original bytes.
    """

    stem: pathlib.Path
    files: tuple[tuple[str, str], ...]
    proxy_fps: float


def write(job: MediaJob) -> None:
    """Writes the shard; a file that cannot be used has an entry without a record."""
    writer = shards.Writer(job.stem)
    entries, times = [], []
    for kind, path in job.files:
        entry = {"kind": kind, "path": path}
        try:
            data, info, seconds = _read(kind, path, job.proxy_fps)
        except MediaError as error:
            entries.append(entry | {"error": str(error)})
            continue
        checksum = hashlib.sha256(data).hexdigest()
        described = {"info": dataclasses.asdict(info), "bytes": len(data), "sha256": checksum}
        entries.append(entry | described | {"record": writer.add(data)})
        times.append(seconds)
    bounds = np.cumsum([0] + [len(part) for part in times])
    columns = {"times": np.concatenate([*times, np.zeros(0)]), "bounds": bounds}
    writer.finish(columns, {"media": entries})


def _read(kind: str, path: str, proxy_fps: float) -> tuple:
    """Bytes, what they are, and when each frame is shown, in seconds from the first."""
    if kind == "image":
        info = image_decode.probe(path)
        return pathlib.Path(path).read_bytes(), info, np.zeros(1)
    info, times = decode.probe(path), decode.frame_times(path)
    if not proxy_fps or info.rate <= proxy_fps:
        return pathlib.Path(path).read_bytes(), info, times
    data, _ = proxy.encode(path, info, proxy_fps)
    # Not as it was asked for, but as it will be read.
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(data)
        file.flush()
        made = decode.probe(file.name)
    return data, made, times[proxy.indices(info, proxy_fps)]
