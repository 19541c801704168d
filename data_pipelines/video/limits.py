"""Limits on media files, so that no single file can stall a run or exhaust its memory."""

import dataclasses
import pathlib
import time

from data_pipelines.media_error import MediaError


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits on a file, and on the decoding work of one sample.

    Attributes:
      frame_pixels: pixels of a frame or image, checked in the header before memory is allocated.
      frames: frames of a video.
      hours: duration of a video.
      decode_gib: GiB of frames decoded to read a sample, including frames that are discarded.
      decode_seconds: processor time to read a sample; also the timeout for one packet.
      held_gib: GiB of resized pictures of a sample, which are in memory at once.
    """

    frame_pixels: int = 8192 * 8192
    frames: int = 4_000_000
    hours: float = 24.0
    decode_gib: float = 4096.0
    decode_seconds: float = 600.0
    held_gib: float = 4.0

    def check_size(self, path: str | pathlib.Path, width: int, height: int) -> None:
        """Checks the pixel count of a frame.

        Raises:
          MediaError: the frame has no pixels, or too many.
        """
        if not 0 < width * height <= self.frame_pixels or width < 0:
            # Decoders reset a size that they reject, so it may be unknown here.
            size = f"{width}x{height}" if width > 0 < height else "no or too many"
            raise MediaError(
                f"{path}: {size} pixels; 1 to {self.frame_pixels} are allowed", "frame size"
            )


USUAL_LIMITS = Limits()


class Meter:
    """Accounts for the decoding work of one sample, in processor time and bytes.

    Processor time is used because wall time would penalise samples on a busy host.

    Args:
      limits: the limits of one sample.
      samples: multiplies `decode_gib` and `decode_seconds`.
    """

    def __init__(self, limits: Limits, samples: int = 1) -> None:
        self.limits = limits
        self._bytes, self._samples = 0, samples
        self._end = time.thread_time() + limits.decode_seconds * samples

    def tick(self, path: str | pathlib.Path) -> None:
        """Checks the time limit; call it at every packet.

        Raises:
          MediaError: the time is used up.
        """
        if time.thread_time() > self._end:
            raise MediaError(
                f"{path}: took more than {self.limits.decode_seconds * self._samples:g} seconds of"
                " processor time; shorten the video or raise the limit",
                "time limit",
            )

    def add(self, path: str | pathlib.Path, frame_bytes: int) -> None:
        """Counts the bytes of a decoded frame.

        Raises:
          MediaError: the total exceeds the limit.
        """
        self._bytes += frame_bytes
        limit_gib = self.limits.decode_gib * self._samples
        if self._bytes > limit_gib * 2**30:
            raise MediaError(
                f"{path}: more than {limit_gib:g} GiB of decoded frames; shorten the video or raise"
                " the limit",
                "byte limit",
            )
