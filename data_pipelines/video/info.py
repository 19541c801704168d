"""What is known of a video, or of an image, before it is decoded."""

import dataclasses

from data_pipelines.media_error import MediaError


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """Size and rate of a video.

    Attributes:
      num_frames: frames that are shown, edit lists applied.
      rate: mean frames a second.
      width: pixels as shown, rotation applied.
      height: likewise.
      timed: whether the rate is known; of a folder of frames it may not be.
    """

    num_frames: int
    rate: float
    width: int
    height: int
    timed: bool = True

    def __post_init__(self):
        if self.num_frames < 1 or self.rate <= 0 or self.width < 1 or self.height < 1:
            raise MediaError(
                f"a video of {self.num_frames} frames at {self.rate:g} a second,"
                f" {self.width}x{self.height} pixels; each must be positive"
            )


def still(width: int, height: int) -> VideoInfo:
    """An image is a video of one frame, whose rate means nothing.

    Raises:
      MediaError: a side is not positive.
    """
    if width < 1 or height < 1:
        raise MediaError(f"an image of {width}x{height} pixels; each side must be positive")
    return VideoInfo(1, 1.0, width, height)
