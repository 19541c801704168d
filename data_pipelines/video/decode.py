"""Decodes exact frames of a video with PyAV; each frame is converted at once to bound memory.

    index    one pass over the packets finds the time and number of every frame without decoding
    runs     for each group of pictures: its keyframe up to its last requested frame
    decode   one run at a time, seeking between runs; non-reference frames that were not requested
             are dropped

The frames of a file are those that a decoder gives when it reads the file from its start, as a
player does. Where packets leave doubt about them, the start of the file or all of it is decoded to
make the index. Where decoding contradicts the index (a keyframe is none, a frame is missing or out
of order), all of it is decoded to count the frames, and read once more from its start.

Measurements behind these choices are in docs/results/decode.md.
"""

import functools
import itertools
import pathlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from data_pipelines.media_error import MediaError
from data_pipelines.video import container as containers
from data_pipelines.video import frames as sampling
from data_pipelines.video import index as indexes
from data_pipelines.video import picture, resize, sequence
from data_pipelines.video.info import VideoInfo
from data_pipelines.video.limits import USUAL_LIMITS, Limits, Meter
from data_pipelines.video.packets import PacketReader, SeekError

# If the measured and the annotated rate differ by more than this fraction, times are wrong.
_RATE_TOLERANCE = 0.1
# If a larger share of the frames that packets announce is never shown, the file is damaged.
_LOST_TOLERANCE = 0.1

T = TypeVar("T")


class ContradictionError(Exception):
    """Decoding contradicts the packets of a file, so it must be read in sequence."""


def probe(path: str | pathlib.Path, limits: Limits = USUAL_LIMITS) -> VideoInfo:
    """Reads size, rate and frame count, and decodes one frame.

    Raises:
      MediaError: the file is missing, empty, damaged, beyond a limit, or contains no video.
    """
    index, (height, width) = _first_frame(path, Meter(limits))
    return VideoInfo(len(index.display_order), index.rate, width, height)


def frame_times(path: str | pathlib.Path, limits: Limits = USUAL_LIMITS) -> np.ndarray:
    """Presentation time of each frame, in seconds relative to the first: float64 [N].

    Raises:
      MediaError: as in `probe`.
    """
    return _first_frame(path, Meter(limits))[0].seconds


def read_frames(
    path: str | pathlib.Path,
    info: VideoInfo,
    indices: np.ndarray,
    convert: Callable[[np.ndarray], T],
    meter: Meter | None = None,
    on_show: bool = False,
) -> list[T]:
    """Decodes the frames at `indices` and returns the result of `convert` for each, in order.

    Args:
      path: the file.
      info: the annotated size and rate.
      indices: int [F_], in display order, non-decreasing; repeats are allowed.
      convert: called with uint8 [h, w, 3] RGB, rotation applied, once per distinct frame, or
        twice if the file must be read in sequence. A frame that has another size than the first
        of the file is scaled to that size.
      meter: the decoding work of the sample so far; a new one by default.
      on_show: read the frames on show at the times `indices / info.rate` instead. At a constant
        rate they are the same.

    Raises:
      MediaError: as in `probe`; also if frame count, rate or size differ from `info`, or if the
        file is damaged before a requested frame.
    """
    meter = meter or Meter(USUAL_LIMITS)
    try:
        return read_once(path, info, indices, convert, meter, on_show)
    except ContradictionError:
        return read_once(path, info, indices, convert, meter, on_show, in_sequence=True)


def read_once(
    path: str | pathlib.Path,
    info: VideoInfo,
    indices: np.ndarray,
    convert: Callable[[np.ndarray], T],
    meter: Meter,
    on_show: bool = False,
    in_sequence: bool = False,
) -> list[T]:
    """Like `read_frames`, but never converts a frame twice.

    Raises:
      ContradictionError: the file must be read `in_sequence`; frames that were converted may be
        wrong.
      MediaError: as in `read_frames`.
    """

    @functools.cache
    def first_size() -> tuple[int, int]:
        return _first_frame(path, meter)[1]

    def convert_sized(frame: np.ndarray) -> T:
        if frame.shape[:2] != (info.height, info.width):
            height, width = first_size()
            if (height, width) != (info.height, info.width):
                raise MediaError(
                    f"{path}: the frame has {width}x{height} pixels, but the annotation says"
                    f" {info.width}x{info.height}; the file was replaced, or the annotation"
                    " ignores its rotation",
                    "differs",
                )
            frame = resize.resize_frame(frame, height, width)
        return convert(frame)

    with containers.open_stream(path, meter.limits) as (container, stream):
        index = _index(container, stream, path, meter, in_sequence)
        count = len(index.display_order)
        if index.timed and info.num_frames < count:
            # Some packets may show nothing.
            raise ContradictionError
        # In sequence, fewer frames may be shown than the packets announced.
        lost = info.num_frames - count if in_sequence else 0
        if lost > _LOST_TOLERANCE * info.num_frames:
            raise MediaError(
                f"{path}: {lost} of {info.num_frames} frames could not be decoded; the file may"
                " be damaged",
                "damaged",
            )
        if lost <= 0:
            _check(path, index, info)
        if on_show or lost > 0:
            # Where the last frames are lost, the last that is shown stays.
            shown = sampling.on_show(index.seconds, np.asarray(indices), info.rate)
            indices = np.minimum(shown, count - 1)
        return _decode(container, stream, path, index, indices, convert_sized, meter)


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


def _first_frame(path: str | pathlib.Path, meter: Meter) -> tuple[indexes.Index, tuple[int, int]]:
    """The index of a file, and the height and width of its first frame."""
    try:
        return _index_and_shape(path, meter, in_sequence=False)
    except ContradictionError:
        return _index_and_shape(path, meter, in_sequence=True)


def _index_and_shape(
    path: str | pathlib.Path, meter: Meter, in_sequence: bool
) -> tuple[indexes.Index, tuple[int, int]]:
    first = np.zeros(1, np.int64)
    with containers.open_stream(path, meter.limits) as (container, stream):
        index = _index(container, stream, path, meter, in_sequence)
        [shape] = _decode(
            container, stream, path, index, first, lambda frame: frame.shape[:2], meter
        )
    return index, shape


def _index(
    container: InputContainer,
    stream: VideoStream,
    path: str | pathlib.Path,
    meter: Meter,
    in_sequence: bool,
) -> indexes.Index:
    """The index of a newly opened file; a counted one if `in_sequence`, or if it must be."""
    table = indexes.read_packets(container, stream, path, meter)
    known = table if table.is_timed and not in_sequence else None
    if known and len(table.doubtful):
        shown = sequence.frame_times(path, meter, table.first_keyframe, table.last_doubtful)
        known = table.without_hidden(shown)
    if known:
        index = known.timed_index()
    else:
        shown = sequence.frame_times(path, meter, table.first_keyframe)
        if not shown:
            raise MediaError(f"{path}: none of its frames can be decoded", "damaged")
        index = table.counted_index(shown)
    indexes.check_length(path, index, meter.limits)
    return index


def _decode(
    container: InputContainer,
    stream: VideoStream,
    path: str | pathlib.Path,
    index: indexes.Index,
    indices: np.ndarray,
    convert: Callable[[np.ndarray], T],
    meter: Meter,
) -> list[T]:
    """Decodes and converts the frames at `indices` of an open file."""
    packets = index.display_order[indices]
    frames: dict[int, T] = {}
    try:
        reader = PacketReader(container, stream, index)
        _decode_runs(reader, index, packets, path, convert, meter, frames)
    except SeekError:
        with containers.open_stream(path, meter.limits) as opened:
            reader = PacketReader(*opened, index, from_start=True)
            _decode_runs(reader, index, packets, path, convert, meter, frames)
    numbers = packets.tolist()
    missing = set(numbers) - frames.keys()
    if missing and index.timed:
        raise ContradictionError
    if missing:
        raise MediaError(
            f"{path}: {len(missing)} of {len(set(numbers))} frames could not be decoded; the file"
            " may be damaged",
            "damaged",
        )
    return [frames[number] for number in numbers]


def _decode_runs(
    reader: PacketReader,
    index: indexes.Index,
    packets: np.ndarray,
    path: str | pathlib.Path,
    convert: Callable[[np.ndarray], T],
    meter: Meter,
    frames: dict[int, T],
) -> None:
    """Adds packet number -> converted frame to `frames`; each frame is converted once."""
    for run in index.runs(packets):
        reader.seek(run.first)
        numbers = _packet_numbers(index, run)
        decoded = sequence.frames(
            reader.context,
            _packets(reader, run),
            path,
            meter,
            index.first_keyframe,
            drop=lambda number, run=run: reader.droppable and number not in run.requested,
        )
        for key, frame in _keyed(decoded, index, run):
            number = numbers.pop(key, None)
            if number is not None and number not in frames:
                if frame.is_corrupt:
                    raise MediaError(f"{path}: the frame of packet {number} is corrupt", "damaged")
                frames[number] = convert(picture.to_rgb(frame))
                if not numbers and not index.timed:
                    return


def _packet_numbers(index: indexes.Index, run: indexes.Run) -> dict[int, int]:
    """Frame key -> packet number, the key being a time or, if counted, the number itself."""
    packets = np.sort(list(run.requested))
    keys = index.times[packets] if index.timed else packets
    return dict(zip(keys.tolist(), packets.tolist(), strict=True))


def _packets(reader: PacketReader, run: indexes.Run) -> Iterator[tuple[int, Packet]]:
    for number, packet in reader:
        yield number, packet
        if number >= run.last:
            return


def _keyed(
    frames: Iterator[VideoFrame], index: indexes.Index, run: indexes.Run
) -> Iterator[tuple[int, VideoFrame]]:
    """Yields frames with their keys, see `_packet_numbers`.

    Raises:
      ContradictionError: the frames of a timed index are out of order, or do not begin with a
        keyframe.
    """
    if not index.timed:
        yield from enumerate(frames)
        return
    start = int(index.times[run.first])
    for previous, frame in itertools.pairwise(itertools.chain([None], frames)):
        if frame.pts is None or (previous is not None and frame.pts <= previous.pts):
            raise ContradictionError
        if run.first and frame.pts == start and not _is_keyframe(frame):
            raise ContradictionError
        yield frame.pts, frame


def _is_keyframe(frame: VideoFrame) -> bool:
    """Whether decoding can start at a frame, as far as the decoder tells.

    A flag alone does not say so: with intra refresh, a P-frame at which a decoder can start has it.
    The second field of an interlaced keyframe may be predicted from the first.
    """
    intra = frame.pict_type in (PictureType.NONE, PictureType.I)
    return bool(frame.key_frame and (intra or frame.interlaced_frame))
