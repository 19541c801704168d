"""Size, length and rate of a video or image, known before it is decoded."""

import dataclasses

from data_pipelines.media_error import MediaError


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """Size, length and rate of a video.

    Attributes:
      num_frames: frames that a player displays.
      rate: frames per second; of a video of variable rate, `num_frames` divided by its length.
      width: displayed pixels, with rotation applied.
      height: displayed pixels, with rotation applied.
      timed: whether the rate is known; for a folder of frames it may not be.
    """

    num_frames: int
    rate: float
    width: int
    height: int
    timed: bool = True

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.rate <= 0 or self.width < 1 or self.height < 1:
            raise MediaError(
                f"a video has {self.num_frames} frames at {self.rate:g} per second and"
                f" {self.width}x{self.height} pixels; each must be positive"
            )


def still(width: int, height: int) -> VideoInfo:
    """Describes a still image as a video of one frame; its rate has no meaning.

    Raises:
      MediaError: a side is not positive.
    """
    if width < 1 or height < 1:
        raise MediaError(f"an image has {width}x{height} pixels; each side must be positive")
    return VideoInfo(1, 1.0, width, height)
