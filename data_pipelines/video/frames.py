"""Selects the sampled frames of a video, and computes the time of each slice of two frames.

    n = clip(int(N / rate * fps), min_frames, max_frames), at most N
    indices = round(linspace(0, N - 1, n)), with the last repeated to fill a slice of two

This matches Qwen3-VL's processor and InternVideo3's data pipeline, with one deviation, the same in
training and inference: a video with fewer than `min_frames` frames yields only its own frames.

For a span of a video, N counts the frames displayed in [start, end). They keep their indices, so
times are relative to the whole file.

Frame i is told at i / rate seconds from the first displayed frame. All of this is planned from N
and the rate, before the file is opened. A video of variable rate is therefore read as if it had
been converted to its mean rate, N divided by its length, as `ffmpeg -fps_mode cfr` does: for frame
i the reader decodes what is on show at i / rate, by the times in the packets. So samples are evenly
spaced in time, every told time is true, and counts do not depend on the times. A frame that stays
may be shown twice, and frames of a fast part may be left out. At a constant rate, what is on show
at i / rate is frame i.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from data_pipelines.media_error import MediaError
from data_pipelines.video.info import VideoInfo

FRAMES_PER_SLICE = 2
# Tolerance, in frames, for span times that were written with few digits.
_TOLERANCE = 1e-3
# A video has a constant rate if no frame is further than this from its time at that rate, in frames
# and in seconds. Containers round times to milliseconds, and the model reads tenths of seconds.
_STEADY_FRAMES, _STEADY_SECONDS = 0.5, 0.05
# Tolerance, in seconds, for times that containers round.
_ROUNDING = 1e-3


@dataclasses.dataclass(frozen=True)
class FrameRule:
    """Sampling density: `fps` frames per second, from `min_frames` to `max_frames` per video."""

    fps: float
    min_frames: int
    max_frames: int


def frame_indices(
    info: VideoInfo, rule: FrameRule, span: Sequence[float] | None = None
) -> np.ndarray:
    """Display indices of the sampled frames: int64 [F_], F_ a multiple of two, non-decreasing.

    Args:
      info: describes the whole file.
      rule: the sampling density.
      span: (start, end) in seconds of the part to sample; None samples the whole video.

    Raises:
      MediaError: the span begins after the video ends, or ends before it begins.
    """
    first, last = (0, info.num_frames - 1) if span is None else _frame_range(info, span)
    available = last - first + 1
    target = int(available / info.rate * rule.fps)
    count = min(max(min(target, rule.max_frames), rule.min_frames), available)
    indices = np.round(np.linspace(first, last, count)).astype(np.int64)
    missing = -len(indices) % FRAMES_PER_SLICE
    return np.concatenate([indices, np.repeat(indices[-1:], missing)])


def _frame_range(info: VideoInfo, span: Sequence[float]) -> tuple[int, int]:
    """First and last frame displayed in [start, end)."""
    start, end = span
    first = math.floor(start * info.rate + _TOLERANCE)
    last = min(math.ceil(end * info.rate - _TOLERANCE), info.num_frames) - 1
    if not 0 <= first <= last:
        raise MediaError(
            f"no frame is on show from {start:g} to {end:g} seconds of a video of"
            f" {info.num_frames / info.rate:g} seconds"
        )
    return first, last


def slice_times(indices: np.ndarray, rate: float) -> np.ndarray:
    """Middle of each slice in seconds: float64 [F_ / 2], the mean time of its two frames."""
    return (indices / rate).reshape(-1, FRAMES_PER_SLICE).mean(axis=1)


def is_steady(seconds: np.ndarray, rate: float) -> bool:
    """Whether frame i is displayed at i / rate, to within half a frame and 0.05 seconds."""
    late = np.abs(seconds - np.arange(len(seconds)) / rate).max(initial=0.0)
    return bool(late <= min(_STEADY_FRAMES / rate, _STEADY_SECONDS))


def on_show(seconds: np.ndarray, indices: np.ndarray, rate: float) -> np.ndarray:
    """The frames of a file that are on show at the times `indices / rate`: int64 [F_].

    Args:
      seconds: float64 [N], the time of each frame from the first, not decreasing.
      indices: int64 [F_], from `frame_indices`.
      rate: frames per second, with which `indices` were computed.
    """
    if is_steady(seconds, rate):
        return indices
    return np.searchsorted(seconds, indices / rate + _ROUNDING, side="right") - 1
