"""The size at which a video or an image enters the model, and the resampling to it.

Sides become multiples of `FACTOR` = 32 (patches of 16, merged two by two). The budget of a video
counts the pixels of all of it, T * H * W, so that a long video is seen at less detail; a side below
32 is first brought to it, the other with it. That of an image counts H * W, T being 1:

    over the budget:  beta = sqrt(T * H * W / max_pixels), sides divided by beta and rounded down
    under the least:  beta = sqrt(min_pixels / (T * H * W)), sides times beta and rounded up
"""

import dataclasses
import math

import numpy as np
from PIL import Image

from data_pipelines.media_error import MediaError

PATCH = 16
MERGE = 2
FACTOR = PATCH * MERGE
_MAX_ASPECT = 200


@dataclasses.dataclass(frozen=True)
class PixelBudget:
    """Bounds on T * H * W of a resized video, or H * W of an image, in pixels."""

    min_pixels: int
    max_pixels: int

    def __post_init__(self):
        least = 2 * FACTOR * FACTOR
        if self.max_pixels < least:
            raise ValueError(
                f"max_pixels = {self.max_pixels} is smaller than one slice of two"
                f" {FACTOR}x{FACTOR} frames; give at least {least}"
            )
        if self.min_pixels > self.max_pixels:
            raise ValueError(
                f"min_pixels = {self.min_pixels} exceeds max_pixels = {self.max_pixels}"
            )


# As shipped with Qwen3-VL.
QWEN3_VL_IMAGES = PixelBudget(65536, 16777216)


def resized_shape(num_frames: int, height: int, width: int, budget: PixelBudget) -> tuple[int, int]:
    """(height, width) for a video of `num_frames` sampled frames; both multiples of `FACTOR`.

    Raises:
      MediaError: a side ratio above 200, or a video that cannot be made small enough for the
        budget.
    """
    _check_aspect(height, width)
    if min(height, width) < FACTOR:
        scale = FACTOR / min(height, width)
        height, width = int(height * scale), int(width * scale)
    frames = round(num_frames / 2) * 2
    new_height, new_width = _fitted(num_frames, frames, height, width, budget)
    if frames * new_height * new_width > budget.max_pixels:
        raise MediaError(
            f"{num_frames} frames of at least {new_width}x{new_height} pixels exceed the budget of"
            f" {budget.max_pixels} pixels; sample fewer frames or raise max_pixels"
        )
    return new_height, new_width


def still_shape(height: int, width: int, budget: PixelBudget) -> tuple[int, int]:
    """(height, width) for an image; both multiples of `FACTOR`.

    An image so long that its shorter side is already 32 may exceed the budget, as in Qwen3-VL: by
    the side ratio that is allowed, it has 200 tokens then at most.

    Raises:
      MediaError: a side ratio above 200.
    """
    _check_aspect(height, width)
    return _fitted(1, 1, height, width, budget)


def _check_aspect(height: int, width: int) -> None:
    if max(height, width) / min(height, width) > _MAX_ASPECT:
        raise MediaError(
            f"a picture of {width}x{height} pixels is longer than {_MAX_ASPECT} times its width"
        )


def _fitted(
    num_frames: int, frames: int, height: int, width: int, budget: PixelBudget
) -> tuple[int, int]:
    """The rule above; `frames` is `num_frames` rounded to whole slices."""
    new_height = round(height / FACTOR) * FACTOR
    new_width = round(width / FACTOR) * FACTOR
    if frames * new_height * new_width > budget.max_pixels:
        beta = math.sqrt(num_frames * height * width / budget.max_pixels)
        new_height = max(FACTOR, math.floor(height / beta / FACTOR) * FACTOR)
        new_width = max(FACTOR, math.floor(width / beta / FACTOR) * FACTOR)
    # Also where a side was rounded to nothing.
    elif frames * new_height * new_width < max(1, budget.min_pixels):
        beta = math.sqrt(max(1, budget.min_pixels) / (num_frames * height * width))
        new_height = math.ceil(height * beta / FACTOR) * FACTOR
        new_width = math.ceil(width * beta / FACTOR) * FACTOR
    return new_height, new_width


def resize_frame(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic, antialiased: uint8 [h, w, 3] to [height, width, 3].

    As torchvision within one step of 255, two where all is noise. The order of the passes is not
    left to PIL: overshoots are cut off between them, so the other order gives other pixels.
    """
    if frame.shape[:2] == (height, width):
        return frame
    picture = Image.fromarray(frame).resize((width, frame.shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
