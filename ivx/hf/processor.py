"""The preprocessor files of a folder: frame sampling, and sizes of videos and images.

Class names and keys are those of Qwen3-VL in transformers; only the values differ.
"""

import dataclasses
import pathlib
from typing import Any

from ivx.errors import UserError
from ivx.hf import json_file

VIDEO_FILE = "video_preprocessor_config.json"
PICTURE_FILE = "preprocessor_config.json"
# transformers 5 saves the contents of both in this file, under these keys.
BOTH_FILE = "processor_config.json"
_VIDEO_KEY, _PICTURE_KEY = "video_processor", "image_processor"
# Larger values are refused: a float holds each integer up to here.
_LARGEST = 2**53
# What the model of ivx takes for granted; an absent key means this value.
_PATCHES = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2}
_COLOURS = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_FIXED = _PATCHES | _COLOURS | dict.fromkeys(("do_rescale", "do_normalize", "do_resize"), True)
# The factor is a float that several programs round.
_RESCALE, _TOLERANCE = 1 / 255, 1e-6
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
      UserError: the rules for videos are missing, a value is not a positive number, or pixels are
        scaled in a way that ivx does not support.
    """
    (video, video_path), (picture, picture_path) = _contents(folder)
    _check_fixed(video, video_path)
    _check_fixed(picture, picture_path)
    values = {key: video.get(key) for key in ("fps", "min_frames", "max_frames")}
    values |= _pixel_bounds(video, "") | _pixel_bounds(picture, IMAGE)
    rules = {}
    for field in dataclasses.fields(FrameRules):
        value = field.default if values[field.name] is None else values[field.name]
        if (
            type(value) not in (int, float)
            or not 0 < value <= _LARGEST
            or value != field.type(value)
        ):
            name = field.name.removeprefix(IMAGE)
            raise UserError(
                f"{video_path if name == field.name else picture_path}: {name} ="
                f" {json_file.shown(value)}, expected a positive"
                f" {'number' if field.type is float else 'whole number'}; correct the file"
            )
        rules[field.name] = field.type(value)
    return FrameRules(**rules)


def _contents(folder: pathlib.Path) -> list[tuple[dict, pathlib.Path]]:
    """The rules for videos and for images, each with its file; as in transformers 5, `BOTH_FILE`
    comes first.

    Raises:
      UserError: there are none for videos.
    """
    path = folder / BOTH_FILE
    both, contents = json_file.read(path) if path.is_file() else {}, []
    for key, name in ((_VIDEO_KEY, VIDEO_FILE), (_PICTURE_KEY, PICTURE_FILE)):
        if isinstance(both.get(key), dict):
            contents.append((both[key], path))
        elif key == _VIDEO_KEY or (folder / name).is_file():
            contents.append((json_file.read(folder / name), folder / name))
        else:
            contents.append(({}, folder / name))
    return contents


def _check_fixed(config: dict, path: pathlib.Path) -> None:
    """Checks what ivx cannot change; a model that expects other pixels would answer wrongly.

    Raises:
      UserError: a value differs.
    """
    factor = config.get("rescale_factor")
    scaled = factor is None or (
        isinstance(factor, float) and abs(factor / _RESCALE - 1) <= _TOLERANCE
    )
    differing = [] if scaled else [("rescale_factor", factor, "1 / 255")]
    for key, expected in _FIXED.items():
        if config.get(key) not in (None, expected):
            differing.append((key, config[key], expected))
    if differing:
        named = "; ".join(
            f"{key} is {json_file.shown(value)}, ivx supports only {expected}"
            for key, value, expected in differing
        )
        raise UserError(f"{path}: {named}; give a folder whose model was trained so")


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
        # Not written, transformers 5 warns about it; the sizes of ivx have no such cap.
        "cap_pixels_per_frame": False,
        "do_sample_frames": True,
        "fps": rules.fps,
        "min_frames": rules.min_frames,
        "max_frames": rules.max_frames,
    }
    return {
        PICTURE_FILE: both | image,
        VIDEO_FILE: both | video,
    }
