"""What is known of a video before it is decoded, and the errors of those that cannot be."""

import dataclasses


class VideoError(ValueError):
    """A video that cannot be used; the message names the file and the cause."""


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """Size and rate of a video.

    Attributes:
      num_frames: frames that are shown, edit lists applied.
      rate: mean frames a second.
      width: pixels as shown, rotation applied.
      height: likewise.
    """

    num_frames: int
    rate: float
    width: int
    height: int

    def __post_init__(self):
        if self.num_frames < 1 or self.rate <= 0 or self.width < 1 or self.height < 1:
            raise VideoError(
                f"a video of {self.num_frames} frames at {self.rate:g} a second,"
                f" {self.width}x{self.height} pixels; each must be positive"
            )
