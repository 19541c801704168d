"""Index of the packets of a video stream, built in one pass that decodes nothing.

    packets in decode order     I0 P4 B2 b1 b3 | I8 B6 b5 b7 ...
    frames in display order     I0 b1 B2 b3 P4   b5 B6 b7 I8 ...

A group of pictures (GOP) begins at a keyframe. In an open GOP, frames displayed before the keyframe
(b5 to b7) also need the previous GOP. Packets hidden by an edit list are decoded where other frames
need them, and never displayed.
"""

import dataclasses
import fractions
import pathlib
from collections.abc import Iterator

import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from data_pipelines.media_error import MediaError
from data_pipelines.video.limits import Meter

# A container may not declare its packet count, so the time limit is checked every so many packets.
_TICK_INTERVAL = 256


@dataclasses.dataclass(frozen=True)
class Run:
    """Consecutive packets to decode.

    Attributes:
      first: the packet to start from, a keyframe.
      last: the last requested packet.
      requested: the packets whose frames are needed.
    """

    first: int
    last: int
    requested: frozenset[int]


@dataclasses.dataclass(frozen=True)
class Index:
    """Timing and structure of a stream; packets are numbered in decode order.

    Attributes:
      times: int64 [P], the presentation time of each packet, in units of `time_base`.
      keyframes: int64 [K], the packets that are keyframes.
      display_order: int64 [N], the packet of each displayed frame.
      timed: whether times identify frames. Where times are missing, repeated or jump back, frames
        are identified by decoder output order and only the length of `display_order` is used.
      time_base: seconds.
      rate: mean frames per second.
    """

    times: np.ndarray
    keyframes: np.ndarray
    display_order: np.ndarray
    timed: bool
    time_base: fractions.Fraction
    rate: float

    def seconds(self) -> np.ndarray:
        """Presentation time of each frame relative to the first: float64 [N]."""
        if not self.timed:
            return np.arange(len(self.display_order)) / self.rate
        times = self.times[self.display_order]
        return (times - times[0]) * float(self.time_base)

    def runs(self, packets: np.ndarray) -> Iterator[Run]:
        """Yields the runs to decode for `packets`, int [W]; nothing else is decoded.

        A run ends at the last requested packet of a GOP, so the rest of that GOP is never decoded.
        It continues into the next GOP if there is nothing to skip in between.
        """
        if not self.timed:
            yield Run(0, len(self.times) - 1, frozenset(packets.tolist()))
            return
        packets = np.unique(packets)
        group_by_time = np.searchsorted(
            self.times[self.keyframes], self.times[packets], side="right"
        )
        group_by_number = np.searchsorted(self.keyframes, packets, side="right")
        groups = np.minimum(group_by_time, group_by_number) - 1
        # Packets before the first keyframe occur only in a stream that was cut.
        starts = np.where(groups < 0, 0, self.keyframes[np.maximum(groups, 0)])
        order = np.lexsort((packets, starts))
        first, last, requested = None, -1, []
        for start, packet in zip(starts[order].tolist(), packets[order].tolist(), strict=True):
            if requested and start > last + 1:
                yield Run(first, last, frozenset(requested))
                requested = []
            if not requested:
                first, last = start, packet
            last = max(last, packet)
            requested.append(packet)
        yield Run(first, last, frozenset(requested))


def build(
    container: InputContainer, stream: VideoStream, path: str | pathlib.Path, meter: Meter
) -> Index:
    """Reads the packets of a newly opened stream.

    Raises:
      MediaError: the stream has no frames, too many frames, or is too long.
    """
    # AVI stores no presentation times, and those that libavformat infers are wrong with B-frames.
    complete = not (container.format.name == "avi" and stream.codec_context.has_b_frames)
    times, keyframes, displayed = [], [], []
    limits = meter.limits
    for packet in container.demux(stream):
        if not packet.size:
            continue
        number = len(times)
        if number % _TICK_INTERVAL == 0:
            meter.tick(path)
        time = packet.pts
        if time is None:
            complete, time = False, packet.dts or 0
        if packet.is_keyframe:
            keyframes.append(number)
        if not packet.is_discard:
            displayed.append(number)
            if len(displayed) > limits.frames:
                raise MediaError(f"{path}: more than {limits.frames} frames", "too long")
        times.append(time)
    if not displayed or not keyframes:
        raise MediaError(f"{path}: no frames in the video stream", "no frames")
    times, keyframes, displayed = (
        np.asarray(numbers, np.int64) for numbers in (times, keyframes, displayed)
    )
    order = displayed[np.argsort(times[displayed], kind="stable")]
    timed = bool(
        complete and (np.diff(times[order]) > 0).all() and (np.diff(times[keyframes]) > 0).all()
    )
    index = Index(
        times=times,
        keyframes=keyframes,
        display_order=order if timed else displayed,
        timed=timed,
        time_base=stream.time_base,
        rate=_rate(stream, times[order], timed),
    )
    if len(displayed) / index.rate > limits.hours * 3600:
        raise MediaError(
            f"{path}: {len(displayed) / index.rate / 3600:.1f} hours long; at most"
            f" {limits.hours:g} are allowed",
            "too long",
        )
    return index


def _rate(stream: VideoStream, times: np.ndarray, timed: bool) -> float:
    """Mean rate of the displayed frames, or the container's rate if times are unreliable."""
    if timed and len(times) > 1:
        return (len(times) - 1) / float((times[-1] - times[0]) * stream.time_base)
    return float(stream.average_rate or stream.guessed_rate or 1)
