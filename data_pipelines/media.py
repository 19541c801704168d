"""References to the videos and images of a sample: which file, and how it is looked at."""

import dataclasses

from data_pipelines.image import decode as image_decode
from data_pipelines.video import decode as video_decode
from data_pipelines.video.info import VideoInfo
from data_pipelines.video.limits import USUAL_LIMITS, Limits


@dataclasses.dataclass(frozen=True)
class VideoRef:
    """A video of a sample.

    Attributes:
      path: the file.
      info: None where the annotation does not describe it.
      span: (start, end) in seconds of what is shown; None shows all.
      fps: frames sampled a second; None leaves it to the frame rule.
    """

    path: str
    info: VideoInfo | None
    span: tuple[float, float] | None = None
    fps: float | None = None

    def resolved(self, limits: Limits = USUAL_LIMITS) -> VideoInfo:
        """What the annotation says, or else the file itself.

        Raises:
          MediaError: the file has to be probed within `limits` and cannot be.
        """
        return self.info or video_decode.probe(self.path, limits)


@dataclasses.dataclass(frozen=True)
class ImageRef:
    """An image of a sample: the file, and its size where the annotation says it."""

    path: str
    info: VideoInfo | None

    def resolved(self, limits: Limits = USUAL_LIMITS) -> VideoInfo:
        """As `VideoRef.resolved`."""
        return self.info or image_decode.probe(self.path, limits)
