"""The size at which a video enters the model, and the resampling to it.

Sides become multiples of `FACTOR` = 32 (patches of 16, merged two by two). The budget counts the
pixels of the whole video, T * H * W, so that a long video is seen at less detail; a side below
32 is first brought to it, the other with it:

    over the budget:  beta = sqrt(T * H * W / max_pixels), sides divided by beta and rounded down
    under the least:  beta = sqrt(min_pixels / (T * H * W)), sides times beta and rounded up
"""

import dataclasses
import math

import numpy as np
from PIL import Image

from data_pipelines.video.info import VideoError

PATCH = 16
MERGE = 2
FACTOR = PATCH * MERGE
_MAX_ASPECT = 200


@dataclasses.dataclass(frozen=True)
class PixelBudget:
    """Bounds on T * H * W of a resized video, in pixels."""

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


def resized_shape(num_frames: int, height: int, width: int, budget: PixelBudget) -> tuple[int, int]:
    """(height, width) for a video of `num_frames` sampled frames; both multiples of `FACTOR`.

    Raises:
      VideoError: a side ratio above 200, or a video that cannot be made small enough for the
        budget.
    """
    if max(height, width) / min(height, width) > _MAX_ASPECT:
        raise VideoError(
            f"a frame of {width}x{height} pixels is longer than {_MAX_ASPECT} times its width"
        )
    if min(height, width) < FACTOR:
        scale = FACTOR / min(height, width)
        height, width = int(height * scale), int(width * scale)
    frames = round(num_frames / 2) * 2
    new_height = round(height / FACTOR) * FACTOR
    new_width = round(width / FACTOR) * FACTOR
    if frames * new_height * new_width > budget.max_pixels:
        beta = math.sqrt(num_frames * height * width / budget.max_pixels)
        new_height = max(FACTOR, math.floor(height / beta / FACTOR) * FACTOR)
        new_width = max(FACTOR, math.floor(width / beta / FACTOR) * FACTOR)
    elif frames * new_height * new_width < budget.min_pixels:
        beta = math.sqrt(budget.min_pixels / (num_frames * height * width))
        new_height = math.ceil(height * beta / FACTOR) * FACTOR
        new_width = math.ceil(width * beta / FACTOR) * FACTOR
    if frames * new_height * new_width > budget.max_pixels:
        raise VideoError(
            f"{num_frames} frames of at least {new_width}x{new_height} pixels exceed the budget of"
            f" {budget.max_pixels} pixels; sample fewer frames or raise max_pixels"
        )
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
