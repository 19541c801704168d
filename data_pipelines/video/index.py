"""The packets of a video stream, found in one pass that decodes nothing.

    stored      I0 P4 B2 b1 b3 | I8 B6 b5 b7 ...     packets, in the order of decoding
    shown       I0 b1 B2 b3 P4   b5 B6 b7 I8 ...     frames, by their times

A group of pictures begins at a keyframe. Frames shown before the keyframe of the group in which
they are stored (b5 to b7: an open group) need the group before as well. Packets that an edit list
hides are decoded where others need them, and never shown.
"""

import dataclasses
import fractions
from collections.abc import Iterator

import numpy as np

from data_pipelines.media_error import MediaError
from data_pipelines.video.limits import Meter

# A container need not count its packets, so that time and number are looked at on the way.
_OFTEN = 256


@dataclasses.dataclass(frozen=True)
class Run:
    """Packets to decode in a row: `first` is a keyframe, `last` the last one that is wanted."""

    first: int
    last: int
    wanted: frozenset[int]


@dataclasses.dataclass(frozen=True)
class Index:
    """What is known of a stream before it is decoded; packets are numbered as stored.

    Attributes:
      times: int64 [P], when the frame of each packet is shown, in units of `time_base`.
      keys: int64 [K], the packets that are keyframes.
      shown: int64 [N], the packet of each shown frame, in the order of showing.
      timed: whether a time tells a frame. Where times are missing, repeated or jump back, `shown`
        is no more than a count: frames are those that the decoder gives, one after the other.
      time_base: seconds.
      rate: frames a second, a mean.
    """

    times: np.ndarray
    keys: np.ndarray
    shown: np.ndarray
    timed: bool
    time_base: fractions.Fraction
    rate: float

    def seconds(self) -> np.ndarray:
        """When each frame is shown, after the first: float64 [N]."""
        if not self.timed:
            return np.arange(len(self.shown)) / self.rate
        times = self.times[self.shown]
        return (times - times[0]) * float(self.time_base)

    def runs(self, wanted: np.ndarray) -> Iterator[Run]:
        """What has to be decoded for the packets `wanted`, int [W]; nothing else is.

        A run ends with the last wanted packet of a group: the tail is never decoded. It goes on
        into the next group where there is no tail.
        """
        if not self.timed:
            yield Run(0, len(self.times) - 1, frozenset(wanted.tolist()))
            return
        wanted = np.unique(wanted)
        by_time = np.searchsorted(self.times[self.keys], self.times[wanted], side="right")
        by_place = np.searchsorted(self.keys, wanted, side="right")
        groups = np.minimum(by_time, by_place) - 1
        # Before the first keyframe there is at best a stream that was cut.
        starts = np.where(groups < 0, 0, self.keys[np.maximum(groups, 0)])
        order = np.lexsort((wanted, starts))
        first, last, found = None, -1, []
        for start, packet in zip(starts[order].tolist(), wanted[order].tolist(), strict=True):
            if found and start > last + 1:
                yield Run(first, last, frozenset(found))
                found = []
            if not found:
                first, last = start, packet
            last = max(last, packet)
            found.append(packet)
        yield Run(first, last, frozenset(found))


def build(container, stream, path, meter: Meter) -> Index:
    """Reads the packets of a freshly opened stream.

    Raises:
      MediaError: there are no frames, too many, or they last too long.
    """
    # An AVI holds no times of showing: those that libavformat makes up are wrong with B-frames.
    complete = not (container.format.name == "avi" and stream.codec_context.has_b_frames)
    times, keys, shown = [], [], []
    limits = meter.limits
    for packet in container.demux(stream):
        if not packet.size:
            continue
        number = len(times)
        if number % _OFTEN == 0:
            meter.tick(path)
        time = packet.pts
        if time is None:
            complete, time = False, packet.dts or 0
        if packet.is_keyframe:
            keys.append(number)
        if not packet.is_discard:
            shown.append(number)
            if len(shown) > limits.frames:
                raise MediaError(f"{path}: more than {limits.frames} frames", "too long")
        times.append(time)
    if not shown or not keys:
        raise MediaError(f"{path}: no frames in the video stream", "no frames")
    times, keys, shown = (np.asarray(numbers, np.int64) for numbers in (times, keys, shown))
    order = shown[np.argsort(times[shown], kind="stable")]
    timed = bool(
        complete and (np.diff(times[order]) > 0).all() and (np.diff(times[keys]) > 0).all()
    )
    index = Index(
        times=times,
        keys=keys,
        shown=order if timed else shown,
        timed=timed,
        time_base=stream.time_base,
        rate=_rate(stream, times[order], timed),
    )
    if len(shown) / index.rate > limits.hours * 3600:
        raise MediaError(
            f"{path}: {len(shown) / index.rate / 3600:.1f} hours long; allowed are"
            f" {limits.hours:g}",
            "too long",
        )
    return index


def _rate(stream, times: np.ndarray, timed: bool) -> float:
    """The mean over the shown frames, or what the container says where these do not tell."""
    if timed and len(times) > 1:
        return (len(times) - 1) / float((times[-1] - times[0]) * stream.time_base)
    return float(stream.average_rate or stream.guessed_rate or 1)
