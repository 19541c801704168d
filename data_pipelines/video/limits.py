"""What a file may ask for before it is refused, so that none stops a run or takes its memory."""

import dataclasses
import time

from data_pipelines.media_error import MediaError


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds on a file, and on the work that one sample may be.

    Attributes:
      frame_pixels: of a frame or an image, refused by its header, before memory is taken for it.
      frames: in a video.
      hours: that a video lasts.
      decode_gib: of all pictures that are decoded to read a sample, wanted or not.
      decode_seconds: of processor time to read a sample; also the longest wait for one packet.
    """

    frame_pixels: int = 8192 * 8192
    frames: int = 4_000_000
    hours: float = 24.0
    decode_gib: float = 4096.0
    decode_seconds: float = 600.0

    def check_size(self, path, width: int, height: int) -> None:
        """Refuses frames of no pixels and of too many.

        Raises:
          MediaError: as said.
        """
        if not 0 < width * height <= self.frame_pixels or width < 0:
            # Decoders forget a size that they refuse.
            size = f"{width}x{height}" if width > 0 < height else "no or too many"
            raise MediaError(
                f"{path}: {size} pixels; allowed are 1 to {self.frame_pixels} in all", "frame size"
            )


USUAL_LIMITS = Limits()


class Meter:
    """The work done for one sample so far; processor time, since a busy host is no fault of it.

    Args:
      limits: on it.
      samples: as much work is allowed as for so many.
    """

    def __init__(self, limits: Limits, samples: int = 1):
        self.limits = limits
        self._bytes, self._samples = 0, samples
        self._end = time.thread_time() + limits.decode_seconds * samples

    def tick(self, path) -> None:
        """To be called at every packet.

        Raises:
          MediaError: the time is spent.
        """
        if time.thread_time() > self._end:
            raise MediaError(
                f"{path}: took more than {self.limits.decode_seconds * self._samples:g} seconds of"
                " processor time; shorten the video or raise the limit",
                "time limit",
            )

    def add(self, path, picture_bytes: int) -> None:
        """To be called with every decoded picture.

        Raises:
          MediaError: there were too many bytes.
        """
        self._bytes += picture_bytes
        most = self.limits.decode_gib * self._samples
        if self._bytes > most * 2**30:
            raise MediaError(
                f"{path}: more than {most:g} GiB of pictures to decode; shorten the video or raise"
                " the limit",
                "byte limit",
            )
