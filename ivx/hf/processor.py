"""How a folder says which frames of a video are seen, and how large videos and images.

The classes named are those of transformers' Qwen3-VL; only the numbers are ours.
"""

import dataclasses
import math
import pathlib

from ivx.errors import UserError
from ivx.hf import json_file

VIDEO_FILE = "video_preprocessor_config.json"
PICTURE_FILE = "preprocessor_config.json"
# What begins the names of rules for images.
IMAGE = "image_"


@dataclasses.dataclass(frozen=True)
class FrameRules:
    """Frames and sizes; the defaults are Qwen3-VL's.

    Attributes:
      fps: frames a second.
      min_frames: frames in all, at least.
      max_frames: at most.
      min_pixels: of a whole resized video, T * H * W, at least.
      max_pixels: at most.
      image_min_pixels: of a resized image, H * W, at least.
      image_max_pixels: at most.
    """

    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 768
    min_pixels: int = 4096
    max_pixels: int = 25165824
    image_min_pixels: int = 65536
    image_max_pixels: int = 16777216


def read_frame_rules(folder: pathlib.Path) -> FrameRules:
    """The rules of a folder; what it does not say is as in Qwen3-VL.

    Raises:
      UserError: no video_preprocessor_config.json, or values that cannot be meant.
    """
    found, path = json_file.read(folder / VIDEO_FILE), folder / PICTURE_FILE
    given = {key: found.get(key) for key in ("fps", "min_frames", "max_frames")}
    given |= _budget(found, "")
    given |= _budget(json_file.read(path) if path.is_file() else {}, IMAGE)
    rules = {}
    for field in dataclasses.fields(FrameRules):
        value = field.default if given[field.name] is None else given[field.name]
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


def _budget(found: dict, prefix: str) -> dict:
    """Bounds of a file, under the names of ours; None where it says none."""
    size = found.get("size")
    size = size if isinstance(size, dict) else {}
    return {
        f"{prefix}min_pixels": size.get("shortest_edge", found.get("min_pixels")),
        f"{prefix}max_pixels": size.get("longest_edge", found.get("max_pixels")),
    }


def processor_files(rules: FrameRules) -> dict[str, dict]:
    """File name -> content."""
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
