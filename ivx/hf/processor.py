"""How a folder says which frames of a video are seen, and how large.

The classes named are those of transformers' Qwen3-VL; only the numbers are ours.
"""

import dataclasses
import math
import pathlib

from ivx.errors import UserError
from ivx.hf import json_file

VIDEO_FILE = "video_preprocessor_config.json"
PICTURE_FILE = "preprocessor_config.json"


@dataclasses.dataclass(frozen=True)
class FrameRules:
    """Frames and sizes; the defaults are Qwen3-VL's.

    Attributes:
      fps: frames a second.
      min_frames: frames in all, at least.
      max_frames: at most.
      min_pixels: of a whole resized video, T * H * W, at least.
      max_pixels: at most.
    """

    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 768
    min_pixels: int = 4096
    max_pixels: int = 25165824


def read_frame_rules(folder: pathlib.Path) -> FrameRules:
    """The rules of a folder; what it does not say is as in Qwen3-VL.

    Raises:
      UserError: no video_preprocessor_config.json, or values that cannot be meant.
    """
    found = json_file.read(folder / VIDEO_FILE)
    size = found.get("size")
    size = size if isinstance(size, dict) else {}
    given = {
        "fps": found.get("fps"),
        "min_frames": found.get("min_frames"),
        "max_frames": found.get("max_frames"),
        "min_pixels": size.get("shortest_edge", found.get("min_pixels")),
        "max_pixels": size.get("longest_edge", found.get("max_pixels")),
    }
    rules = {}
    for field in dataclasses.fields(FrameRules):
        value = field.default if given[field.name] is None else given[field.name]
        if (
            type(value) not in (int, float)
            or not 0 < value < math.inf
            or value != field.type(value)
        ):
            raise UserError(
                f"{folder / VIDEO_FILE}: {field.name} = {value!r}, expected a positive"
                f" {'number' if field.type is float else 'whole number'}; correct the file"
            )
        rules[field.name] = field.type(value)
    return FrameRules(**rules)


def processor_files(rules: FrameRules) -> dict[str, dict]:
    """File name -> content; a single picture has the budget of a whole video."""
    both = {
        "processor_class": "Qwen3VLProcessor",
        "size": {"shortest_edge": rules.min_pixels, "longest_edge": rules.max_pixels},
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    video = {
        "video_processor_type": "Qwen3VLVideoProcessor",
        "do_sample_frames": True,
        "fps": rules.fps,
        "min_frames": rules.min_frames,
        "max_frames": rules.max_frames,
    }
    return {
        PICTURE_FILE: both | {"image_processor_type": "Qwen2VLImageProcessorFast"},
        VIDEO_FILE: both | video,
    }
