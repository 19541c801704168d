"""The preprocessor files of a folder: frame sampling, and sizes of videos and images.

Class names and keys are those of Qwen3-VL in transformers; only the values differ.
"""

import dataclasses
import math
import pathlib
from typing import Any

from ivx.errors import UserError
from ivx.hf import json_file

VIDEO_FILE = "video_preprocessor_config.json"
PICTURE_FILE = "preprocessor_config.json"
# Prefix of the fields for images.
IMAGE = "image_"


@dataclasses.dataclass(frozen=True)
class FrameRules:
    """Frame sampling and sizes; the defaults are those of Qwen3-VL.

    Attributes:
      fps: sampled frames per second.
      min_frames: fewest frames of a video.
      max_frames: most frames of a video.
      min_pixels: fewest pixels of a resized video, T * H * W.
      max_pixels: most pixels of a resized video.
      image_min_pixels: fewest pixels of a resized image, H * W.
      image_max_pixels: most pixels of a resized image.
    """

    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 768
    min_pixels: int = 4096
    max_pixels: int = 25165824
    image_min_pixels: int = 65536
    image_max_pixels: int = 16777216


def read_frame_rules(folder: pathlib.Path) -> FrameRules:
    """The rules of a folder; absent values default to those of Qwen3-VL.

    Raises:
      UserError: video_preprocessor_config.json is missing, or a value is not a positive number.
    """
    video, path = json_file.read(folder / VIDEO_FILE), folder / PICTURE_FILE
    values = {key: video.get(key) for key in ("fps", "min_frames", "max_frames")}
    values |= _pixel_bounds(video, "")
    values |= _pixel_bounds(json_file.read(path) if path.is_file() else {}, IMAGE)
    rules = {}
    for field in dataclasses.fields(FrameRules):
        value = field.default if values[field.name] is None else values[field.name]
        if (
            type(value) not in (int, float)
            or not 0 < value < math.inf
            or value != field.type(value)
        ):
            name = field.name.removeprefix(IMAGE)
            raise UserError(
                f"{folder / VIDEO_FILE if name == field.name else path}: {name} = {value!r},"
                f" expected a positive {'number' if field.type is float else 'whole number'};"
                " correct the file"
            )
        rules[field.name] = field.type(value)
    return FrameRules(**rules)


def _pixel_bounds(config: dict, prefix: str) -> dict[str, Any]:
    """The pixel bounds of a file by field of `FrameRules`; None if it has none."""
    size = config.get("size")
    size = size if isinstance(size, dict) else {}
    return {
        f"{prefix}min_pixels": size.get("shortest_edge", config.get("min_pixels")),
        f"{prefix}max_pixels": size.get("longest_edge", config.get("max_pixels")),
    }


def processor_files(rules: FrameRules) -> dict[str, dict]:
    """File name -> JSON content."""
    both = {
        "processor_class": "Qwen3VLProcessor",
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    image = {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "size": {"shortest_edge": rules.image_min_pixels, "longest_edge": rules.image_max_pixels},
    }
    video = {
        "video_processor_type": "Qwen3VLVideoProcessor",
        "size": {"shortest_edge": rules.min_pixels, "longest_edge": rules.max_pixels},
        "do_sample_frames": True,
        "fps": rules.fps,
        "min_frames": rules.min_frames,
        "max_frames": rules.max_frames,
    }
    return {
        PICTURE_FILE: both | image,
        VIDEO_FILE: both | video,
    }
