"""A table of videos, given by metadata, to compare frame sampling and sizes."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from data_pipelines.video.frames import FrameRule
from data_pipelines.video.info import VideoInfo
from data_pipelines.video.resize import PixelBudget
from ivx.hf.processor import FrameRules

# Qwen3-VL, the training of InternVideo3, and the small experiments of ivx.
QWEN3_VL = FrameRule(2.0, 4, 768), PixelBudget(4096, 25165824)
LONG = FrameRule(2.0, 4, 2048), PixelBudget(16384, 32768 * 4 * 32 * 32)
TINY = FrameRule(1.0, 2, 16), PixelBudget(4096, 65536)
RULES = (QWEN3_VL, LONG, TINY)

_SIZES = (
    (1280, 720),
    (720, 1280),
    (1920, 1080),
    (640, 360),
    (333, 517),
    (32, 32),
    (48, 80),
    (144, 144),
    (6400, 32),
    (40, 4000),
    (24, 16),
)
# (frames, frames per second)
_LENGTHS = (
    (1, 24.0),
    (2, 24.0),
    (4, 1.0),
    (20, 4.0),
    (97, 29.97),
    (250, 25.0),
    (1000, 23.976),
    (2048, 2.0),
    (7193, 59.94),
    (120, 0.5),
)


@dataclasses.dataclass(frozen=True)
class Case:
    """One row: a video and the rules of its sampling."""

    info: VideoInfo
    frames: FrameRule
    budget: PixelBudget

    @property
    def rules(self) -> FrameRules:
        """The rules in the format of a Hugging Face folder."""
        frames, budget = self.frames, self.budget
        return FrameRules(
            frames.fps, frames.min_frames, frames.max_frames, budget.min_pixels, budget.max_pixels
        )


def table() -> list[Case]:
    """Each length at several sizes under each rule."""
    cases = []
    for rule, (frames, budget) in enumerate(RULES):
        for row, (count, rate) in enumerate(_LENGTHS):
            for step in range(3):
                width, height = _SIZES[(row + 3 * step + rule) % len(_SIZES)]
                cases.append(Case(VideoInfo(count, rate, width, height), frames, budget))
    return cases


def row(
    indices: Sequence[int],
    times: Sequence[float],
    grid: Sequence[int],
    tokens: np.ndarray,
    positions: np.ndarray,
) -> dict:
    """The compared values of a video and a question about it.

    Args:
      indices: [F_] sampled frames, the last repeated to fill its slice.
      times: [F_ / 2] seconds.
      grid: slices, rows and columns of patches.
      tokens: [T] ids of the prompt, from the compact tokenizer.
      positions: [3, T].
    """
    return {
        "grid": [int(side) for side in grid],
        "tokens": len(tokens),
        "digests": [digest(array) for array in (indices, times, tokens, positions)],
    }


def digest(array: Sequence | np.ndarray) -> str:
    """A short hash of an array's values, independent of its dtype."""
    return hashlib.sha256(np.asarray(array, np.float64).tobytes()).hexdigest()[:8]
