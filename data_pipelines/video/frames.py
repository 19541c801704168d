"""Which frames of a video are looked at, and when each slice of two frames happens.

    n = clip(int(N / rate * fps), min_frames, max_frames), at most N
    indices = round(linspace(0, N - 1, n)), the last repeated to fill a slice of two

as in Qwen3-VL's processor and InternVideo3's data pipeline. One deviation, the same in training
and in use: a video of fewer frames than `min_frames` gives the frames it has, none invented.

Of a span of a video, the frames on show at some time in [start, end) are the N to choose from; they
keep their indices, so that times stay those of the whole file.
"""

import dataclasses
import math

import numpy as np

from data_pipelines.media_error import MediaError
from data_pipelines.video.info import VideoInfo

FRAMES_PER_SLICE = 2
# What a time may be off, in frames, that was written with few digits.
_SLACK = 1e-3


@dataclasses.dataclass(frozen=True)
class FrameRule:
    """How densely a video is sampled: `fps` a second, `min_frames` to `max_frames` in all."""

    fps: float
    min_frames: int
    max_frames: int


def frame_indices(
    info: VideoInfo, rule: FrameRule, span: tuple[float, float] | None = None
) -> np.ndarray:
    """Display indices of the sampled frames: int64 [F_], F_ a multiple of two, non-decreasing.

    Args:
      info: of the whole file.
      rule: how densely to sample.
      span: (start, end) in seconds of what is shown; None shows all.

    Raises:
      MediaError: the span begins after the video ends, or ends before it begins.
    """
    first, last = (0, info.num_frames - 1) if span is None else _shown(info, span)
    shown = last - first + 1
    wanted = int(shown / info.rate * rule.fps)
    count = min(max(min(wanted, rule.max_frames), rule.min_frames), shown)
    indices = np.round(np.linspace(first, last, count)).astype(np.int64)
    missing = -len(indices) % FRAMES_PER_SLICE
    return np.concatenate([indices, np.repeat(indices[-1:], missing)])


def _shown(info: VideoInfo, span: tuple[float, float]) -> tuple[int, int]:
    """First and last frame on show in [start, end)."""
    start, end = span
    first = math.floor(start * info.rate + _SLACK)
    last = min(math.ceil(end * info.rate - _SLACK), info.num_frames) - 1
    if not 0 <= first <= last:
        raise MediaError(
            f"no frame is on show from {start:g} to {end:g} seconds of a video of"
            f" {info.num_frames / info.rate:g} seconds"
        )
    return first, last


def slice_times(indices: np.ndarray, rate: float) -> np.ndarray:
    """Middle of each slice in seconds: float64 [F_ / 2], the mean time of its two frames."""
    return (indices / rate).reshape(-1, FRAMES_PER_SLICE).mean(axis=1)
