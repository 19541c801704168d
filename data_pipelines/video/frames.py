"""Which frames of a video are looked at, and when each slice of two frames happens.

    n = clip(int(N / rate * fps), min_frames, max_frames), at most N
    indices = round(linspace(0, N - 1, n)), the last repeated to fill a slice of two

as in Qwen3-VL's processor and InternVideo3's data pipeline. One deviation, the same in training
and in use: a video of fewer frames than `min_frames` gives the frames it has, none invented.
"""

import dataclasses

import numpy as np

from data_pipelines.video.info import VideoInfo

FRAMES_PER_SLICE = 2


@dataclasses.dataclass(frozen=True)
class FrameRule:
    """How densely a video is sampled: `fps` a second, `min_frames` to `max_frames` in all."""

    fps: float
    min_frames: int
    max_frames: int


def frame_indices(info: VideoInfo, rule: FrameRule) -> np.ndarray:
    """Display indices of the sampled frames: int64 [F_], F_ a multiple of two, non-decreasing."""
    wanted = int(info.num_frames / info.rate * rule.fps)
    count = min(max(min(wanted, rule.max_frames), rule.min_frames), info.num_frames)
    indices = np.round(np.linspace(0, info.num_frames - 1, count)).astype(np.int64)
    missing = -len(indices) % FRAMES_PER_SLICE
    return np.concatenate([indices, np.repeat(indices[-1:], missing)])


def slice_times(indices: np.ndarray, rate: float) -> np.ndarray:
    """Middle of each slice in seconds: float64 [F_ / 2], the mean time of its two frames."""
    return (indices / rate).reshape(-1, FRAMES_PER_SLICE).mean(axis=1)
