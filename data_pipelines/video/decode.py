"""Decoding with PyAV: exact frames by display index, resized as they come to keep memory flat.

    index    one pass over the packets gives time and place of every frame; nothing is decoded
    runs     of each group of pictures with wanted frames, its keyframe to its last wanted frame
    decode   run by run, passing over what lies between; in a run, frames that no other refers to
             are dropped unless wanted

Measured choices are in docs/results/decode.md.
"""

import pathlib
from collections.abc import Callable, Iterator

import av
import numpy as np

from data_pipelines.media_error import MediaError
from data_pipelines.video import container as containers
from data_pipelines.video import index as indexes
from data_pipelines.video import picture
from data_pipelines.video.info import VideoInfo
from data_pipelines.video.limits import USUAL_LIMITS, Limits, Meter

# Packets that are read over rather than sought past: about what a seek costs.
_READ_OVER = 16
# A rate this far from what was announced gives times that are wrong.
_RATE_SLACK = 0.1
# Codecs whose frames marked as not referred to are referred to by none. (Of HEVC they may be, by
# frames of a higher temporal layer. Decoders of VP9 and AV1 do not look at the mark.)
_DROPPABLE = ("h264", "mpeg4", "mpeg2video", "mpeg1video")


class _CannotSeekError(Exception):
    """The container does not go where it is sent."""


def probe(path: str | pathlib.Path, limits: Limits = USUAL_LIMITS) -> VideoInfo:
    """Reads size, rate and frame count, and decodes one frame.

    Raises:
      MediaError: the file is missing, empty, damaged, beyond a limit, or has no video in it.
    """
    meter = Meter(limits)
    index, [(height, width)] = _read(
        path, [0], lambda _: None, lambda frame: frame.shape[:2], meter
    )
    return VideoInfo(len(index.shown), index.rate, width, height)


def frame_times(path: str | pathlib.Path, limits: Limits = USUAL_LIMITS) -> np.ndarray:
    """When each frame is shown, in seconds after the first: float64 [N].

    Raises:
      MediaError: as `probe`.
    """
    meter = Meter(limits)
    with containers.opened(path, meter.limits) as (container, stream):
        return indexes.build(container, stream, path, meter).seconds()


def read_frames(
    path: str | pathlib.Path,
    info: VideoInfo,
    indices: np.ndarray,
    convert: Callable[[np.ndarray], np.ndarray],
    meter: Meter | None = None,
) -> list[np.ndarray]:
    """Decodes the frames at `indices`, each passed through `convert` at once, in their order.

    Args:
      path: the file.
      info: what the file is said to be; frames chosen for another would be the wrong ones.
      indices: int [F_], in display order, non-decreasing; repeats are allowed.
      convert: from an RGB frame, uint8 [h, w, 3] with rotation applied, to what is kept of it.
      meter: the work of the sample so far; a new one by default.

    Raises:
      MediaError: as `probe`, or another number, rate or size of frames than said, or damage before
        a wanted frame.
    """
    meter = meter or Meter(USUAL_LIMITS)

    def checked(frame: np.ndarray) -> np.ndarray:
        height, width = frame.shape[:2]
        if (height, width) != (info.height, info.width):
            raise MediaError(
                f"{path}: a frame of {width}x{height} pixels, where {info.width}x{info.height}"
                " were announced; replaced, or announced without its rotation?",
                "differs",
            )
        return convert(frame)

    _, kept = _read(path, indices, lambda index: _check(path, index, info), checked, meter)
    return kept


def _check(path: str | pathlib.Path, index: indexes.Index, info: VideoInfo) -> None:
    """Whether the file is as long and as fast as it was said to be."""
    if len(index.shown) != info.num_frames:
        raise MediaError(
            f"{path}: {len(index.shown)} frames, where {info.num_frames} were announced;"
            " damaged or replaced?",
            "differs",
        )
    check_rate(path, index.rate, info)


def check_rate(path: str | pathlib.Path, rate: float, said: VideoInfo) -> None:
    """Whether a file of `rate` frames a second is as fast as it was said to be.

    Raises:
      MediaError: it is not.
    """
    if said.num_frames > 1 and abs(rate / said.rate - 1) > _RATE_SLACK:
        raise MediaError(
            f"{path}: {rate:.4g} frames a second, where {said.rate:.4g} were announced, so"
            " that its times would be wrong; mend the annotation",
            "differs",
        )


def _read(path, indices, check: Callable, convert: Callable, meter: Meter) -> tuple:
    """The index of a file, if it passes `check`, and what `convert` makes of frames of it."""
    kept = {}
    with containers.opened(path, meter.limits) as (container, stream):
        index = indexes.build(container, stream, path, meter)
        check(index)
        packets = index.shown[indices].tolist()
        try:
            source = _Packets(container, stream, index)
            _decode(source, index, packets, path, convert, meter, kept)
            sought = True
        except _CannotSeekError:
            sought = False
    if not sought:
        with containers.opened(path, meter.limits) as (container, stream):
            source = _Packets(container, stream, index, from_start=True)
            _decode(source, index, packets, path, convert, meter, kept)
    missing = set(packets) - kept.keys()
    if missing:
        raise MediaError(
            f"{path}: {len(missing)} of {len(set(packets))} frames could not be decoded;"
            " damaged file?",
            "damaged",
        )
    return index, [kept[packet] for packet in packets]


def _decode(
    source: "_Packets", index: indexes.Index, packets, path, convert, meter: Meter, kept: dict
) -> None:
    """Adds to `kept`: packet number -> what `convert` made of its frame, each made once."""
    for run in index.runs(np.asarray(packets)):
        source.go_to(run.first)
        marks = _marks(index, run)
        for count, frame in enumerate(_frames(source, run, path, meter)):
            meter.add(path, sum(plane.buffer_size for plane in frame.planes))
            number = marks.pop(frame.pts if index.timed else count, None)
            if number is not None and number not in kept:
                if frame.is_corrupt:
                    raise MediaError(f"{path}: the picture of packet {number} is torn", "damaged")
                kept[number] = convert(picture.rgb(frame))
                if not marks and not index.timed:
                    return


def _marks(index: indexes.Index, run: indexes.Run) -> dict[int, int]:
    """What tells a wanted frame of a run, its time or its place, -> its packet."""
    wanted = np.sort(list(run.wanted))
    marks = index.times[wanted] if index.timed else np.searchsorted(index.shown, wanted)
    return dict(zip(marks.tolist(), wanted.tolist(), strict=True))


def _frames(source: "_Packets", run: indexes.Run, path, meter: Meter) -> Iterator:
    """Frames of the packets of a run, in the order of showing."""
    context = source.context
    for number, packet in source:
        meter.tick(path)
        drop = source.droppable and number not in run.wanted
        context.skip_frame = "NONREF" if drop else "DEFAULT"
        try:
            yield from context.decode(packet)
        except av.error.FFmpegError as error:
            reason = error.strerror or type(error).__name__
            raise MediaError(f"{path}: damaged at packet {number} ({reason})", "damaged") from error
        if number >= run.last:
            break
    yield from context.decode(None)
    context.flush_buffers()


def _droppable(stream) -> bool:
    context = stream.codec_context
    if context.name == "hevc":
        # The field numTemporalLayers of an hvcC record.
        record = context.extradata or b""
        return len(record) > 22 and record[0] == 1 and record[21] >> 3 & 7 == 1
    return context.name in _DROPPABLE


class _Packets:
    """The packets of an indexed stream with their numbers; it is sought in, or read from its start.

    Args:
      container: freshly opened if it is to be read from its start.
      stream: of it.
      index: of the stream.
      from_start: whether the container cannot seek.
    """

    def __init__(self, container, stream, index: indexes.Index, from_start: bool = False):
        self.context = stream.codec_context
        self.droppable = index.timed and _droppable(stream)
        self._container, self._stream, self._index = container, stream, index
        self._from_start = from_start
        self._packets = container.demux(stream)
        self._next = 0 if from_start else None
        keys = index.keys
        self._keys = dict(zip(index.times[keys].tolist(), keys.tolist(), strict=True))

    def go_to(self, number: int) -> None:
        """Makes the keyframe `number` the next packet.

        Raises:
          _CannotSeekError: it cannot be found.
        """
        self._skip_to = number
        near = self._next is not None and self._next <= number <= self._next + _READ_OVER
        if self._from_start or near:
            return
        if not self._index.timed:
            raise _CannotSeekError
        time = int(self._index.times[number])
        try:
            self._container.seek(time, stream=self._stream, backward=True)
        except av.error.FFmpegError as error:
            raise _CannotSeekError from error
        self._packets, self._next = self._container.demux(self._stream), None

    def __iter__(self) -> Iterator[tuple]:
        for packet in self._packets:
            if not packet.size:
                continue
            if self._next is None:
                self._next = self._keys.get(packet.pts) if packet.is_keyframe else None
                if self._next is None:
                    continue
                if self._next > self._skip_to:
                    raise _CannotSeekError
            self._next += 1
            if self._next > self._skip_to:
                yield self._next - 1, packet
        if self._next is None:
            raise _CannotSeekError
