"""Decodes exact frames of a video with PyAV; each frame is converted at once to bound memory.

    index    one pass over the packets finds the time and number of every frame without decoding
    runs     for each group of pictures: its keyframe up to its last requested frame
    decode   one run at a time, seeking between runs; non-reference frames that were not requested
             are dropped

Measurements behind these choices are in docs/results/decode.md.
"""

import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import av
import numpy as np
from av.video.frame import VideoFrame

from data_pipelines.media_error import MediaError
from data_pipelines.video import container as containers
from data_pipelines.video import index as indexes
from data_pipelines.video import picture
from data_pipelines.video.info import VideoInfo
from data_pipelines.video.limits import USUAL_LIMITS, Limits, Meter
from data_pipelines.video.packets import PacketReader, SeekError

# If the measured and the annotated rate differ by more than this fraction, times are wrong.
_RATE_TOLERANCE = 0.1

T = TypeVar("T")


def probe(path: str | pathlib.Path, limits: Limits = USUAL_LIMITS) -> VideoInfo:
    """Reads size, rate and frame count, and decodes one frame.

    Raises:
      MediaError: the file is missing, empty, damaged, beyond a limit, or contains no video.
    """
    meter = Meter(limits)
    index, [(height, width)] = _read(
        path, [0], lambda _: None, lambda frame: frame.shape[:2], meter
    )
    return VideoInfo(len(index.display_order), index.rate, width, height)


def frame_times(path: str | pathlib.Path, limits: Limits = USUAL_LIMITS) -> np.ndarray:
    """Presentation time of each frame, in seconds relative to the first: float64 [N].

    Raises:
      MediaError: as in `probe`.
    """
    meter = Meter(limits)
    with containers.open_stream(path, meter.limits) as (container, stream):
        return indexes.build(container, stream, path, meter).seconds()


def read_frames(
    path: str | pathlib.Path,
    info: VideoInfo,
    indices: np.ndarray,
    convert: Callable[[np.ndarray], T],
    meter: Meter | None = None,
) -> list[T]:
    """Decodes the frames at `indices` and returns the result of `convert` for each, in order.

    Args:
      path: the file.
      info: the annotated size and rate; `indices` were computed from it.
      indices: int [F_], in display order, non-decreasing; repeats are allowed.
      convert: called once per distinct frame with uint8 [h, w, 3] RGB, rotation applied.
      meter: the decoding work of the sample so far; a new one by default.

    Raises:
      MediaError: as in `probe`; also if frame count, rate or size differ from `info`, or if the
        file is damaged before a requested frame.
    """
    meter = meter or Meter(USUAL_LIMITS)

    def check_and_convert(frame: np.ndarray) -> T:
        height, width = frame.shape[:2]
        if (height, width) != (info.height, info.width):
            raise MediaError(
                f"{path}: the frame has {width}x{height} pixels, but the annotation says"
                f" {info.width}x{info.height}; the file was replaced, or the annotation ignores its"
                " rotation",
                "differs",
            )
        return convert(frame)

    _, frames = _read(
        path, indices, lambda index: _check(path, index, info), check_and_convert, meter
    )
    return frames


def _check(path: str | pathlib.Path, index: indexes.Index, info: VideoInfo) -> None:
    """Raises if the frame count or rate of the file differs from the annotation."""
    count = len(index.display_order)
    if count != info.num_frames:
        raise MediaError(
            f"{path}: {count} frames, but the annotation says {info.num_frames}; the file is"
            " damaged or was replaced",
            "differs",
        )
    check_rate(path, index.rate, info)


def check_rate(path: str | pathlib.Path, rate: float, annotated: VideoInfo) -> None:
    """Compares the measured `rate`, in frames per second, with the annotation.

    Raises:
      MediaError: they differ by more than 10 %.
    """
    if annotated.num_frames > 1 and abs(rate / annotated.rate - 1) > _RATE_TOLERANCE:
        raise MediaError(
            f"{path}: {rate:.4g} frames per second, but the annotation says {annotated.rate:.4g},"
            " so its times would be wrong; fix the annotation",
            "differs",
        )


def _read(
    path: str | pathlib.Path,
    indices: np.ndarray | list[int],
    check: Callable[[indexes.Index], None],
    convert: Callable[[np.ndarray], Any],
    meter: Meter,
) -> tuple[indexes.Index, list]:
    """Returns the index of a file, after `check` accepts it, and the converted frames."""
    frames = {}
    with containers.open_stream(path, meter.limits) as (container, stream):
        index = indexes.build(container, stream, path, meter)
        check(index)
        packets = index.display_order[indices].tolist()
        try:
            reader = PacketReader(container, stream, index)
            _decode(reader, index, packets, path, convert, meter, frames)
            can_seek = True
        except SeekError:
            can_seek = False
    if not can_seek:
        with containers.open_stream(path, meter.limits) as (container, stream):
            reader = PacketReader(container, stream, index, from_start=True)
            _decode(reader, index, packets, path, convert, meter, frames)
    missing = set(packets) - frames.keys()
    if missing:
        raise MediaError(
            f"{path}: {len(missing)} of {len(set(packets))} frames could not be decoded; the file"
            " may be damaged",
            "damaged",
        )
    return index, [frames[packet] for packet in packets]


def _decode(
    reader: PacketReader,
    index: indexes.Index,
    packets: Sequence[int],
    path: str | pathlib.Path,
    convert: Callable[[np.ndarray], Any],
    meter: Meter,
    frames: dict[int, Any],
) -> None:
    """Adds packet number -> converted frame to `frames`; each frame is converted once."""
    for run in index.runs(np.asarray(packets)):
        reader.seek(run.first)
        numbers = _packet_numbers(index, run)
        for count, frame in enumerate(_frames(reader, run, path, meter)):
            meter.add(path, sum(plane.buffer_size for plane in frame.planes))
            number = numbers.pop(frame.pts if index.timed else count, None)
            if number is not None and number not in frames:
                if frame.is_corrupt:
                    raise MediaError(f"{path}: the frame of packet {number} is corrupt", "damaged")
                frames[number] = convert(picture.to_rgb(frame))
                if not numbers and not index.timed:
                    return


def _packet_numbers(index: indexes.Index, run: indexes.Run) -> dict[int, int]:
    """Frame key -> packet number, the key being a time or, without times, a display index."""
    packets = np.sort(list(run.requested))
    keys = index.times[packets] if index.timed else np.searchsorted(index.display_order, packets)
    return dict(zip(keys.tolist(), packets.tolist(), strict=True))


def _frames(
    reader: PacketReader, run: indexes.Run, path: str | pathlib.Path, meter: Meter
) -> Iterator[VideoFrame]:
    """Decodes the packets of a run; yields frames in display order."""
    context = reader.context
    for number, packet in reader:
        meter.tick(path)
        drop = reader.droppable and number not in run.requested
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
