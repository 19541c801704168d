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
from data_pipelines.video.limits import Limits, Meter

# Packets that are read over rather than sought past: about what a seek costs.
_READ_OVER = 32
# A rate this far from what was announced gives times that are wrong.
_RATE_SLACK = 0.1
# Codecs whose frames marked as not referred to are referred to by none. (Of HEVC they may be, by
# frames of a higher temporal layer. Decoders of VP9 and AV1 do not look at the mark.)
_DROPPABLE = ("h264", "mpeg4", "mpeg2video", "mpeg1video")


class _CannotSeekError(Exception):
    """The container does not go where it is sent."""


def probe(path: str | pathlib.Path, limits: Limits | None = None) -> VideoInfo:
    """Reads size, rate and frame count, and decodes one frame.

    Raises:
      MediaError: the file is missing, empty, damaged, beyond a limit, or has no video in it.
    """
    meter = Meter(limits or Limits())
    index = _index(path, meter)
    [(height, width)] = _read(path, index, index.shown[:1], lambda frame: frame.shape[:2], meter)
    return VideoInfo(len(index.shown), index.rate, width, height)


def frame_times(path: str | pathlib.Path, limits: Limits | None = None) -> np.ndarray:
    """When each frame is shown, in seconds after the first: float64 [N].

    Raises:
      MediaError: as `probe`.
    """
    return _index(path, Meter(limits or Limits())).seconds()


def read_frames(
    path: str | pathlib.Path,
    info: VideoInfo,
    indices: np.ndarray,
    convert: Callable[[np.ndarray], np.ndarray],
    meter: Meter | None = None,
) -> list[np.ndarray]:
    """Decodes the frames at `indices`, each passed through `convert` at once.

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
    meter = meter or Meter(Limits())
    index = _index(path, meter)
    _check(path, index, info)

    def checked(frame: np.ndarray) -> np.ndarray:
        height, width = frame.shape[:2]
        if (height, width) != (info.height, info.width):
            raise MediaError(
                f"{path}: a frame of {width}x{height} pixels, where {info.width}x{info.height}"
                " were announced; replaced, or announced without its rotation?",
                "differs",
            )
        return convert(frame)

    return _read(path, index, index.shown[indices], checked, meter)


def _index(path: str | pathlib.Path, meter: Meter) -> indexes.Index:
    with containers.opened(path, meter.limits) as (container, stream):
        return indexes.build(container, stream, path, meter)


def _check(path: str | pathlib.Path, index: indexes.Index, info: VideoInfo) -> None:
    """Whether the file is as long and as fast as it was said to be."""
    if len(index.shown) != info.num_frames:
        raise MediaError(
            f"{path}: {len(index.shown)} frames, where {info.num_frames} were announced;"
            " damaged or replaced?",
            "differs",
        )
    if info.num_frames > 1 and abs(index.rate / info.rate - 1) > _RATE_SLACK:
        raise MediaError(
            f"{path}: {index.rate:.4g} frames a second, where {info.rate:.4g} were announced, so"
            " that its times would be wrong; mend the annotation",
            "differs",
        )


def _read(path, index: indexes.Index, packets: np.ndarray, convert, meter: Meter) -> list:
    """What `convert` makes of the frames of `packets`, in that order."""
    try:
        kept = _decode(path, index, packets, convert, meter, seek=True)
    except _CannotSeekError:
        kept = _decode(path, index, packets, convert, meter, seek=False)
    missing = {int(packet) for packet in packets if int(packet) not in kept}
    if missing:
        raise MediaError(
            f"{path}: {len(missing)} of {len(np.unique(packets))} frames could not be decoded;"
            " damaged file?",
            "damaged",
        )
    return [kept[int(packet)] for packet in packets]


def _decode(path, index: indexes.Index, packets, convert, meter: Meter, seek: bool) -> dict:
    """Packet number -> what `convert` made of its frame."""
    kept = {}
    with containers.opened(path, meter.limits) as (container, stream):
        source = _Packets(container, stream, index, seek)
        droppable = index.timed and _droppable(stream)
        for run in index.runs(packets):
            source.go_to(run.first)
            marks = _marks(index, run)
            for count, frame in enumerate(_frames(source, run, path, meter, droppable)):
                meter.add(path, sum(plane.buffer_size for plane in frame.planes))
                number = marks.pop(frame.pts if index.timed else count, None)
                if number is not None:
                    kept[number] = convert(picture.rgb(frame))
                    if not marks and not index.timed:
                        return kept
    return kept


def _marks(index: indexes.Index, run: indexes.Run) -> dict[int, int]:
    """What tells a wanted frame of a run, its time or its place, -> its packet."""
    wanted = np.sort(list(run.wanted))
    marks = index.times[wanted] if index.timed else np.searchsorted(index.shown, wanted)
    return dict(zip(marks.tolist(), wanted.tolist(), strict=True))


def _frames(source: "_Packets", run: indexes.Run, path, meter: Meter, droppable: bool) -> Iterator:
    """Frames of the packets of a run, in the order of showing."""
    context = source.context
    for number, packet in source:
        meter.tick(path)
        drop = droppable and number not in run.wanted
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
    """The packets of a freshly opened stream with their numbers."""

    def __init__(self, container, stream, index: indexes.Index, seek: bool):
        self.context = stream.codec_context
        self._container, self._stream, self._seek = container, stream, seek
        self._times = index.times
        self._packets = container.demux(stream)
        self._next = 0
        self._keys = dict(zip(index.times[index.keys].tolist(), index.keys.tolist(), strict=True))

    def go_to(self, number: int) -> None:
        """Makes the keyframe `number` the next packet, or one shortly before it.

        Raises:
          _CannotSeekError: it cannot be found again.
        """
        if not self._seek or self._next <= number <= self._next + _READ_OVER:
            self._skip_to = number
            return
        time = int(self._times[number])
        try:
            self._container.seek(time, stream=self._stream, backward=True)
        except av.error.FFmpegError as error:
            raise _CannotSeekError from error
        self._packets = self._container.demux(self._stream)
        self._next, self._skip_to = None, number

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
