"""Decoding with PyAV: exact frames by display index, resized as they come to keep memory flat.

One pass over the packets, without decoding, gives the time of every shown frame and the keyframes.
Then each run of groups of pictures that holds wanted frames is decoded from its keyframe; frames
that nothing else refers to are dropped unless they are wanted.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator

import av
import numpy as np

from data_pipelines.media_error import MediaError
from data_pipelines.video.info import VideoInfo

# A guard against files made to exhaust memory; above 8K video.
MAX_FRAME_PIXELS = 8192 * 8192


@dataclasses.dataclass(frozen=True)
class _Index:
    """Display times and keyframe times of a stream, sorted, in units of its time base."""

    times: np.ndarray
    keys: np.ndarray


def probe(path: str | pathlib.Path) -> VideoInfo:
    """Reads size, rate and frame count without decoding more than one frame.

    Raises:
      MediaError: the file is missing, empty, damaged, or has no video in it.
    """
    with _open(path) as (container, stream):
        index = _build_index(container, stream, path)
        rotation = _rotation(container, stream, index)
        width, height = stream.codec_context.width, stream.codec_context.height
        if rotation % 180:
            width, height = height, width
        return VideoInfo(len(index.times), _rate(stream, index), width, height)


def frame_times(path: str | pathlib.Path) -> np.ndarray:
    """When each frame is shown, in seconds after the first: float64 [N].

    Raises:
      MediaError: as `probe`.
    """
    with _open(path) as (container, stream):
        times = _build_index(container, stream, path).times
        return (times - times[0]) * float(stream.time_base)


def read_frames(
    path: str | pathlib.Path,
    info: VideoInfo,
    indices: np.ndarray,
    convert: Callable[[np.ndarray], np.ndarray],
) -> list[np.ndarray]:
    """Decodes the frames at `indices`, each passed through `convert` at once.

    Args:
      path: the file.
      info: what the file is said to be; frames chosen for another would be the wrong ones.
      indices: int [F_], in display order, non-decreasing; repeats are allowed.
      convert: from an RGB frame, uint8 [h, w, 3] with rotation applied, to what is kept of it.

    Raises:
      MediaError: as `probe`, or another number or size of frames than said, or damage before a
        wanted frame.
    """
    with _open(path) as (container, stream):
        index = _build_index(container, stream, path)
        if len(index.times) != info.num_frames:
            raise MediaError(
                f"{path}: {len(index.times)} frames, where {info.num_frames} were announced;"
                " damaged or replaced?"
            )

        def checked(frame: np.ndarray) -> np.ndarray:
            height, width = frame.shape[:2]
            if (height, width) != (info.height, info.width):
                raise MediaError(
                    f"{path}: a frame of {width}x{height} pixels, where {info.width}x{info.height}"
                    " were announced; replaced, or announced without its rotation?"
                )
            return convert(frame)

        wanted = np.unique(index.times[indices])
        kept = {}
        for run in _runs(index, wanted):
            _decode_run(container, stream, run, kept, checked)
        missing = [int(time) for time in wanted if int(time) not in kept]
        if missing:
            raise MediaError(
                f"{path}: {len(missing)} of {len(wanted)} frames could not be decoded;"
                " damaged file?"
            )
        return [kept[int(time)] for time in index.times[indices]]


@contextlib.contextmanager
def _open(path: str | pathlib.Path) -> Iterator[tuple]:
    """Opens the first video stream to decode on one thread; PyAV's errors become `MediaError`."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise MediaError(f"{path}: no such file")
    if not path.stat().st_size:
        raise MediaError(f"{path}: the file is empty")
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            if not container.streams.video:
                raise MediaError(f"{path}: no video stream in the file")
            # Not the first: that may be the cover of an album.
            stream = container.streams.best("video")
            if stream is None or stream.codec_context is None:
                raise MediaError(f"{path}: there is no decoder for its codec")
            pixels = stream.codec_context.width * stream.codec_context.height
            if not 0 < pixels <= MAX_FRAME_PIXELS:
                raise MediaError(
                    f"{path}: frames of {pixels} pixels; allowed are 1 to {MAX_FRAME_PIXELS}"
                )
            stream.codec_context.thread_count = 1
            yield container, stream
    except av.error.FFmpegError as error:
        reason = error.strerror or type(error).__name__
        raise MediaError(f"{path}: not a readable video ({reason})") from error


def _build_index(container, stream, path) -> _Index:
    """Demuxes the stream once; packets before an edit list's start are decoded but never shown."""
    times, keys = [], []
    for packet in container.demux(stream):
        if packet.size == 0 or packet.pts is None:
            continue
        if packet.is_keyframe:
            keys.append(packet.pts)
        if not packet.is_discard:
            times.append(packet.pts)
    if not times or not keys:
        raise MediaError(f"{path}: no frames in the video stream")
    return _Index(np.unique(times), np.unique(keys))


def _rate(stream, index: _Index) -> float:
    """Frames a second: the mean over shown frames, or what the container says of a single one."""
    if len(index.times) > 1:
        seconds = float((index.times[-1] - index.times[0]) * stream.time_base)
        return (len(index.times) - 1) / seconds
    return float(stream.average_rate or stream.guessed_rate or 1)


def _rotation(container, stream, index: _Index) -> int:
    """Degrees counter-clockwise by which frames are to be turned, read off the first frame."""
    container.seek(int(index.times[0]), stream=stream, backward=True)
    for frame in container.decode(stream):
        return int(frame.rotation)
    return 0


def _runs(index: _Index, wanted: np.ndarray) -> Iterator[tuple[int, set[int], int]]:
    """Runs of adjacent groups of pictures with wanted frames: (keyframe time, times, last time)."""
    groups = np.maximum(np.searchsorted(index.keys, wanted, side="right") - 1, 0)
    breaks = np.flatnonzero(np.diff(groups) > 1) + 1
    for members, times in zip(np.split(groups, breaks), np.split(wanted, breaks), strict=True):
        yield int(index.keys[members[0]]), {int(time) for time in times}, int(times[-1])


def _decode_run(container, stream, run, kept: dict[int, np.ndarray], convert) -> None:
    """Decodes one run into `kept`, keyed by time; stops after its last wanted frame."""
    start, times, last = run
    context = stream.codec_context
    container.seek(start, stream=stream, backward=True)
    for packet in container.demux(stream):
        # Non-reference frames can be skipped without harm to any other.
        context.skip_frame = "DEFAULT" if packet.pts is None or packet.pts in times else "NONREF"
        for frame in packet.decode() if packet.size else context.decode(None):
            if frame.pts in times and frame.pts not in kept:
                picture = frame.to_ndarray(format="rgb24")
                turns = int(frame.rotation) // 90 % 4
                kept[frame.pts] = convert(
                    np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture
                )
            if frame.pts is not None and frame.pts >= last:
                return
        if packet.size == 0:
            return
