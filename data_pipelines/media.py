"""References to the videos and images of a sample, and the one entry point to their pixels.

address                                  how it is read
local file                               in place
folder of frames, %08d.jpg               frame by frame; so is a run of records in shards
gs://..., s3://...                       copied whole into a temporary file while it is open
record of TFDS or of a prepared shard    likewise
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from data_pipelines import local_copy
from data_pipelines.image import decode as image_decode
from data_pipelines.local_copy import REMOTE, is_remote
from data_pipelines.media_files import read_errors
from data_pipelines.video import decode as video_decode
from data_pipelines.video import folder
from data_pipelines.video.info import VideoInfo
from data_pipelines.video.limits import USUAL_LIMITS, Limits, Meter

__all__ = ["REMOTE", "ImageRef", "VideoRef", "exists", "is_remote", "read_image", "read_video"]


@dataclasses.dataclass(frozen=True)
class VideoRef:
    """A reference to a video of a sample.

    Attributes:
      path: a file, a folder of frames, or an address that `local_copy` reads.
      info: size, rate and length; None if the annotation does not give them.
      span: (start, end) in seconds of the part that is shown; None shows the full video.
      fps: frames sampled per second; None leaves it to the frame rule.
      processed_fps: the rate at which the frames of the file were extracted from another video;
        None for an original video.
      times: time of each frame in seconds; None if the frame rate gives the times.
      folder_fps: the annotated frame rate of a folder of frames, which does not store one.
    """

    path: str
    info: VideoInfo | None
    span: tuple[float, float] | None = None
    fps: float | None = None
    processed_fps: float | None = None
    times: tuple[float, ...] | None = None
    folder_fps: float | None = None

    def resolved(self, limits: Limits = USUAL_LIMITS) -> VideoInfo:
        """The info of the annotation, or else that of the file.

        Raises:
          MediaError: the file must be probed, and cannot be within `limits`.
        """
        if self.info:
            return self.info
        with read_errors(self.path):
            return self._probe(limits)

    def _probe(self, limits: Limits) -> VideoInfo:
        if folder.is_folder(self.path):
            info = folder.probe(self.path, limits)
            if self.folder_fps:
                return dataclasses.replace(info, rate=self.folder_fps, timed=True)
        else:
            with local_copy.local(self.path) as path:
                info = video_decode.probe(path, limits)
        if self.processed_fps:
            return dataclasses.replace(info, rate=self.processed_fps)
        return dataclasses.replace(info, timed=True) if self.times else info


@dataclasses.dataclass(frozen=True)
class ImageRef:
    """A reference to an image of a sample.

    Attributes:
      path: a file, or an address that `local_copy` reads.
      info: its size; None if the annotation does not give it.
    """

    path: str
    info: VideoInfo | None

    def resolved(self, limits: Limits = USUAL_LIMITS) -> VideoInfo:
        """The info of the annotation, or else that of the file, as in `VideoRef.resolved`."""
        if self.info:
            return self.info
        with read_errors(self.path), local_copy.local(self.path) as path:
            return image_decode.probe(path, limits)


def read_video(
    path: str,
    info: VideoInfo,
    indices: np.ndarray,
    convert: Callable[[np.ndarray], Any],
    meter: Meter,
    on_show: bool = False,
) -> list:
    """`video.decode.read_frames` for any kind of address; a folder of frames has no times."""
    with read_errors(path):
        if folder.is_folder(path):
            return folder.read_frames(path, info, indices, convert, meter)
        with local_copy.local(path) as file:
            return video_decode.read_frames(file, info, indices, convert, meter, on_show)


def read_image(path: str, info: VideoInfo, limits: Limits, shape: tuple[int, int]) -> np.ndarray:
    """`image.decode.read` for any kind of address."""
    with read_errors(path), local_copy.local(path) as file:
        return image_decode.read(file, info, limits, shape)


def exists(path: str) -> bool:
    """Whether a video or an image exists; reads none of it.

    Raises:
      MediaError: it is empty, or cannot be reached.
    """
    return folder.is_folder(path) or local_copy.exists(path)
