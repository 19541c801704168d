"""Index of a video stream: which packet shows which frame, and when.

    packets in decode order     I0 P4 B2 b1 b3 | I8 B6 b5 b7 ...
    frames in display order     I0 b1 B2 b3 P4   b5 B6 b7 I8 ...

A group of pictures (GOP) begins at a keyframe. In an open GOP, frames displayed before the keyframe
(b5 to b7) also need the previous GOP. Packets hidden by an edit list are decoded where other frames
need them, and never displayed.

An index is *timed* if the times of packets identify frames; then single GOPs can be decoded. It is
made from the packets, see `PacketTable`. Otherwise it is *counted*: it is made from all frames that
a decoder gave, in their order, and the file is always decoded from its start.

Time 0 is the first displayed frame of the stream, wherever the file itself begins.
"""

import dataclasses
import fractions
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from data_pipelines.media_error import MediaError
from data_pipelines.video import hidden
from data_pipelines.video.frames import is_steady
from data_pipelines.video.limits import Limits, Meter

# A container may not declare its packet count, so the time limit is checked every so many packets.
_TICK_INTERVAL = 256
# These containers store no presentation times. Those that libavformat infers are wrong if frames
# are reordered.
_WITHOUT_PRESENTATION_TIMES = ("avi", "asf")
# Decoders that can start at a keyframe. Others may keep something from the frames before it, or
# their containers call frames keyframes that are none and decoders do not tell.
_STARTS_AT_KEYFRAMES = (
    *("h264", "hevc", "vvc", "libdav1d", "av1", "vp8", "vp9", "theora", "flv", "h261", "h263"),
    *("mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4", "wmv1", "wmv2"),
    *("wmv3", "vc1", "rv10", "rv20", "rv30", "rv40", "mjpeg", "prores", "dnxhd", "dvvideo"),
    *("ffv1", "huffyuv", "ffvhuff", "utvideo", "png", "jpeg2000", "rawvideo", "v210"),
)


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
      times: int64 [P], the presentation time of each packet in ticks of the stream.
      keyframes: int64 [K], the packets that are keyframes.
      display_order: int64 [N], the packet of each displayed frame; if counted, the numbers of the
        frames in decoder output order.
      timed: whether the index is timed, see above.
      seconds: float64 [N], the time of each frame from the first, not decreasing.
      rate: frames per second: the constant rate, or N divided by the length of the video.
    """

    times: np.ndarray
    keyframes: np.ndarray
    display_order: np.ndarray
    timed: bool
    seconds: np.ndarray
    rate: float

    @property
    def first_keyframe(self) -> int:
        """The first keyframe; 0 if there is none."""
        return _first_keyframe(self)

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


@dataclasses.dataclass(frozen=True)
class PacketTable:
    """What the packets of a stream say, in decode order.

    Attributes:
      times: int64 [P], as in `Index`.
      keyframes: int64 [K], as in `Index`.
      displayed: int64 [N], packets that show a frame, unless a decoder drops them.
      reordered: whether the container stores no times for frames that are displayed in another
        order than that of the packets.
      certain: whether every packet has a presentation time and shows a frame, and decoding can
        start at keyframes.
      last_duration: ticks for which the last frame is displayed; 0 if unknown.
      time_base: seconds per tick.
      stated_rate: frames per second, as the container states it.
    """

    times: np.ndarray
    keyframes: np.ndarray
    displayed: np.ndarray
    reordered: bool
    certain: bool
    last_duration: int
    time_base: fractions.Fraction
    stated_rate: float

    @property
    def first_keyframe(self) -> int:
        """The first keyframe; 0 if there is none."""
        return _first_keyframe(self)

    @property
    def order(self) -> np.ndarray:
        """The displayed packets in the order of their times: int64 [N]."""
        return self.displayed[np.argsort(self.times[self.displayed], kind="stable")]

    @property
    def is_timed(self) -> bool:
        """Whether times identify frames and keyframes."""
        return bool(
            self.certain
            and not self.reordered
            and len(self.keyframes)
            and len(self.displayed)
            and (np.diff(self.times[self.order]) > 0).all()
            and (np.diff(self.times[self.keyframes]) > 0).all()
        )

    @property
    def doubtful(self) -> np.ndarray:
        """Displayed packets before the first keyframe in decode or display order: int64 [D].

        Their frames need packets that are not in the file, as after a cut, unless the encoder
        promised otherwise. Only a decoder can tell.
        """
        first = self.first_keyframe
        early = (self.displayed < first) | (self.times[self.displayed] < self.times[first])
        return self.displayed[early]

    @property
    def last_doubtful(self) -> int:
        """The time by which a decoder has given the frames of all doubtful packets."""
        return int(self.times[[self.first_keyframe, *self.doubtful]].max())

    def without_hidden(self, shown: Sequence[int | None]) -> "PacketTable | None":
        """The table without packets that show nothing at the start of the file.

        Args:
          shown: times of the first frames that a decoder gives; None if a frame has no time.

        Returns:
          None if the frames do not belong to packets of the table one by one, or end too early.
        """
        times = self.times[self.displayed]
        if not shown or None in shown or not set(times.tolist()).issuperset(shown):
            return None
        if (np.diff(shown) <= 0).any() or shown[-1] < self.last_doubtful:
            return None
        kept = (times > shown[-1]) | np.isin(times, shown)
        return dataclasses.replace(self, displayed=self.displayed[kept])

    def timed_index(self) -> Index:
        """The index of a stream for which `is_timed` holds."""
        seconds, rate = self._timing(self.times[self.order])
        return Index(self.times, self.keyframes, self.order, True, seconds, rate)

    def counted_index(self, shown: Sequence[int | None]) -> Index:
        """The index of the frames that a decoder gave, by their times or None."""
        count = len(shown)
        if self.reordered:
            # In display order, frames have the same times as the packets have in decode order.
            shown = np.sort(self.times[self.displayed])[-count:].tolist()
        known = len(shown) == count and None not in shown
        times = np.asarray(shown if known else range(count), np.int64)
        if known and times[-1] > times[0] and (np.diff(times) >= 0).all():
            seconds, rate = self._timing(times)
        else:
            rate = self.stated_rate
            seconds = np.arange(count) / rate
        return Index(self.times, self.keyframes, np.arange(count), False, seconds, rate)

    def _timing(self, times: np.ndarray) -> tuple[np.ndarray, float]:
        """Seconds of each frame from the first, and the rate; `times` do not decrease."""
        count = len(times)
        seconds = (times - times[0]) * float(self.time_base)
        if count < 2:
            return seconds, self.stated_rate
        span = times[-1] - times[0]
        rate = (count - 1) / float(span * self.time_base)
        if not is_steady(seconds, rate):
            # Of such a video, only its length gives a rate at which all of it is sampled.
            last = self.last_duration or round(span / (count - 1))
            rate = count / float((span + last) * self.time_base)
        return seconds, rate


def _first_keyframe(packets: Index | PacketTable) -> int:
    return int(packets.keyframes[0]) if len(packets.keyframes) else 0


def read_packets(
    container: InputContainer, stream: VideoStream, path: str | pathlib.Path, meter: Meter
) -> PacketTable:
    """Reads the packets of a newly opened stream; decodes nothing.

    Raises:
      MediaError: the stream has no frames or too many.
    """
    context = stream.codec_context
    certain = context.name in _STARTS_AT_KEYFRAMES
    times, keyframes, displayed, duration, latest = [], [], [], 0, None
    shows = hidden.test_for(context.name)
    for packet in container.demux(stream):
        if not packet.size:
            continue
        number = len(times)
        if number % _TICK_INTERVAL == 0:
            meter.tick(path)
        time = packet.pts
        if time is None:
            certain, time = False, packet.dts or 0
        if packet.is_keyframe:
            keyframes.append(number)
        if not packet.is_discard:
            shown = shows is None or shows(packet)
            if shown is None:
                certain = False
            if shown is not False:
                displayed.append(number)
                check_count(path, len(displayed), meter.limits)
                if latest is None or time >= latest:
                    latest, duration = time, packet.duration or 0
        times.append(time)
    if not displayed:
        raise MediaError(f"{path}: no frames in the video stream", "no frames")
    return PacketTable(
        *(np.asarray(numbers, np.int64) for numbers in (times, keyframes, displayed)),
        reordered=bool(context.has_b_frames)
        and container.format.name in _WITHOUT_PRESENTATION_TIMES,
        certain=certain,
        last_duration=duration,
        time_base=stream.time_base,
        stated_rate=float(stream.average_rate or stream.guessed_rate or 1),
    )


def check_count(path: str | pathlib.Path, count: int, limits: Limits) -> None:
    """Checks the number of frames.

    Raises:
      MediaError: there are too many.
    """
    if count > limits.frames:
        raise MediaError(f"{path}: more than {limits.frames} frames", "too long")


def check_length(path: str | pathlib.Path, index: Index, limits: Limits) -> None:
    """Checks the length of a video.

    Raises:
      MediaError: it is too long.
    """
    hours = len(index.display_order) / index.rate / 3600
    if hours > limits.hours:
        raise MediaError(
            f"{path}: {hours:.1f} hours long; at most {limits.hours:g} are allowed", "too long"
        )
