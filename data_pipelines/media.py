"""Videos and images of a sample: which file, how it is looked at, and one door to its pixels.

where it lies                     how it is read
a file here                       in place
a folder of frames, %08d.jpg      frame by frame; a run of records of shards likewise
gs://..., s3://...                copied into a temporary file, whole, for as long as it is open
a record of TFDS, or of shards    likewise
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from data_pipelines import nearby
from data_pipelines.image import decode as image_decode
from data_pipelines.nearby import REMOTE, is_remote
from data_pipelines.video import decode as video_decode
from data_pipelines.video import folder
from data_pipelines.video.info import VideoInfo
from data_pipelines.video.limits import USUAL_LIMITS, Limits, Meter

__all__ = ["REMOTE", "ImageRef", "VideoRef", "is_remote", "read_image", "read_video"]


@dataclasses.dataclass(frozen=True)
class VideoRef:
    """A video of a sample.

    Attributes:
      path: the file, a folder of frames, or an address that `nearby` knows.
      info: None where the annotation does not describe it.
      span: (start, end) in seconds of what is shown; None shows all.
      fps: frames sampled a second; None leaves it to the frame rule.
      processed_fps: rate at which the file's frames were chosen from another video; None: it is one
        of its own.
      times: seconds of each frame of the file; None where its rate says them.
      said_fps: rate of a folder of frames, which has none of its own.
    """

    path: str
    info: VideoInfo | None
    span: tuple[float, float] | None = None
    fps: float | None = None
    processed_fps: float | None = None
    times: tuple[float, ...] | None = None
    said_fps: float | None = None

    def resolved(self, limits: Limits = USUAL_LIMITS) -> VideoInfo:
        """What the annotation says, or else the file itself.

        Raises:
          MediaError: the file has to be probed within `limits` and cannot be.
        """
        if self.info:
            return self.info
        if folder.is_folder(self.path):
            found = folder.probe(self.path, limits)
            if self.said_fps:
                return dataclasses.replace(found, rate=self.said_fps, timed=True)
        else:
            with nearby.local(self.path) as path:
                found = video_decode.probe(path, limits)
        if self.processed_fps:
            return dataclasses.replace(found, rate=self.processed_fps)
        return dataclasses.replace(found, timed=True) if self.times else found


@dataclasses.dataclass(frozen=True)
class ImageRef:
    """An image of a sample: the file, and its size where the annotation says it."""

    path: str
    info: VideoInfo | None

    def resolved(self, limits: Limits = USUAL_LIMITS) -> VideoInfo:
        """As `VideoRef.resolved`."""
        if self.info:
            return self.info
        with nearby.local(self.path) as path:
            return image_decode.probe(path, limits)


def read_video(
    path: str,
    info: VideoInfo,
    indices: np.ndarray,
    convert: Callable[[np.ndarray], np.ndarray],
    meter: Meter,
) -> list[np.ndarray]:
    """As `video.decode.read_frames`, wherever the video lies."""
    if folder.is_folder(path):
        return folder.read_frames(path, info, indices, convert, meter)
    with nearby.local(path) as file:
        return video_decode.read_frames(file, info, indices, convert, meter)


def read_image(path: str, info: VideoInfo, limits: Limits) -> np.ndarray:
    """As `image.decode.read`, wherever the image lies."""
    with nearby.local(path) as file:
        return image_decode.read(file, info, limits)


def is_there(path: str) -> bool:
    """Whether a video or image exists, nothing of it read."""
    return folder.is_folder(path) or nearby.exists(path)
