"""Chooses the size at which a video or image enters the model, and resamples frames to it.

Sides become multiples of `FACTOR` = 32 (patches of 16, merged 2 x 2). The budget of a video limits
T * H * W, so a long video is seen at lower resolution. A video with a side below 32 is first
enlarged, keeping its aspect ratio. The budget of an image limits H * W, with T = 1:

    above max_pixels:  beta = sqrt(T * H * W / max_pixels), sides divided by beta and rounded down
    below min_pixels:  beta = sqrt(min_pixels / (T * H * W)), sides times beta and rounded up
"""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
from PIL import Image

from data_pipelines.media_error import MediaError

PATCH = 16
MERGE = 2
FACTOR = PATCH * MERGE
_MAX_ASPECT = 200
# Pixels of a block of rows.
_BLOCK_PIXELS = 2**22


@dataclasses.dataclass(frozen=True)
class PixelBudget:
    """Bounds in pixels on T * H * W of a resized video, or on H * W of an image."""

    min_pixels: int
    max_pixels: int

    def __post_init__(self) -> None:
        minimum = 2 * FACTOR * FACTOR
        if self.max_pixels < minimum:
            raise ValueError(
                f"max_pixels = {self.max_pixels} is smaller than one slice of two"
                f" {FACTOR}x{FACTOR} frames; set it to at least {minimum}"
            )
        if self.min_pixels > self.max_pixels:
            raise ValueError(
                f"min_pixels = {self.min_pixels} exceeds max_pixels = {self.max_pixels}"
            )


# The budget shipped with Qwen3-VL.
QWEN3_VL_IMAGES = PixelBudget(65536, 16777216)


def resized_shape(num_frames: int, height: int, width: int, budget: PixelBudget) -> tuple[int, int]:
    """(height, width) for a video of `num_frames` sampled frames; both multiples of `FACTOR`.

    Raises:
      MediaError: the aspect ratio exceeds 200, or the video cannot be made small enough for the
        budget.
    """
    _check_aspect(height, width)
    if min(height, width) < FACTOR:
        scale = FACTOR / min(height, width)
        height, width = int(height * scale), int(width * scale)
    frames = round(num_frames / 2) * 2
    new_height, new_width = _fit_budget(num_frames, frames, height, width, budget)
    if frames * new_height * new_width > budget.max_pixels:
        raise MediaError(
            f"{num_frames} frames of at least {new_width}x{new_height} pixels exceed the budget of"
            f" {budget.max_pixels} pixels; sample fewer frames or raise max_pixels"
        )
    return new_height, new_width


def still_shape(height: int, width: int, budget: PixelBudget) -> tuple[int, int]:
    """(height, width) for an image; both multiples of `FACTOR`.

    As in Qwen3-VL, an elongated image whose shorter side is already 32 may exceed the budget. The
    allowed aspect ratio limits it to 200 tokens.

    Raises:
      MediaError: the aspect ratio exceeds 200.
    """
    _check_aspect(height, width)
    return _fit_budget(1, 1, height, width, budget)


def _check_aspect(height: int, width: int) -> None:
    if max(height, width) / min(height, width) > _MAX_ASPECT:
        raise MediaError(
            f"a picture of {width}x{height} pixels has an aspect ratio above {_MAX_ASPECT}"
        )


def _fit_budget(
    num_frames: int, frames: int, height: int, width: int, budget: PixelBudget
) -> tuple[int, int]:
    """Applies the rule above; `frames` is `num_frames` rounded to whole slices."""
    new_height = round(height / FACTOR) * FACTOR
    new_width = round(width / FACTOR) * FACTOR
    if frames * new_height * new_width > budget.max_pixels:
        beta = math.sqrt(num_frames * height * width / budget.max_pixels)
        new_height = max(FACTOR, math.floor(height / beta / FACTOR) * FACTOR)
        new_width = max(FACTOR, math.floor(width / beta / FACTOR) * FACTOR)
    # This also covers a side that was rounded to zero.
    elif frames * new_height * new_width < max(1, budget.min_pixels):
        beta = math.sqrt(max(1, budget.min_pixels) / (num_frames * height * width))
        new_height = math.ceil(height * beta / FACTOR) * FACTOR
        new_width = math.ceil(width * beta / FACTOR) * FACTOR
    return new_height, new_width


def resize_frame(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes uint8 [h, w, 3] to [height, width, 3] by antialiased bicubic interpolation.

    Differs from torchvision by at most one step of 255, or two on pure noise. The horizontal pass
    explicitly comes first: overshoots are clipped between passes, so the order affects the result.
    """
    if frame.shape[:2] == (height, width):
        return frame
    rows = max(1, _BLOCK_PIXELS // frame.shape[1])
    blocks = (Image.fromarray(frame[row : row + rows]) for row in range(0, len(frame), rows))
    return resize_blocks(blocks, len(frame), height, width)


def resize_blocks(blocks: Iterable[Image.Image], rows: int, height: int, width: int) -> np.ndarray:
    """`resize_frame` of a picture that arrives in blocks of rows, to bound memory.

    Args:
      blocks: RGB, from top to bottom.
      rows: of all blocks.
      height: of the result.
      width: of the result.
    """
    narrow, top = Image.new("RGB", (width, rows)), 0
    for block in blocks:
        narrow.paste(block.resize((width, block.height), Image.Resampling.BICUBIC), (0, top))
        top += block.height
    return np.asarray(narrow.resize((width, height), Image.Resampling.BICUBIC))
