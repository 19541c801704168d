"""Layout settings that a data set overrides, as mixtures and prepared samples store them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from data_pipelines.annotation_error import AnnotationError
from data_pipelines.formats.columns import is_number

# The largest values. They bound the memory of a sample, which has a token per 1,024 pixels of an
# image or 2,048 of a video.
_MOST_FRAMES, _MOST_PIXELS, _LARGEST_MINIMUM, _HIGHEST_RATE = 10**6, 2**32, 2**26, 1e6


@dataclasses.dataclass(frozen=True)
class Overrides:
    """Layout settings of one data set; None keeps the setting of the config.

    The names are those of InternVideo3's mixtures.

    Attributes:
      min_pixels: minimum H * W of an image.
      max_pixels: maximum H * W of an image.
      video_min_total_pixels: minimum T * H * W of a video.
      video_max_total_pixels: maximum T * H * W of a video.
      video_min_frames: minimum count of sampled frames.
      video_max_frames: maximum count of sampled frames.
      rand_video_max_frames: maximum count of frames where the frame rate is unknown, or is a rate
        of extracted frames that `fps` does not divide.
      fps: frames sampled per second.
      add_vision_id: whether videos and images are numbered, "Video 1: ", "Picture 1: ".
    """

    min_pixels: int | None = None
    max_pixels: int | None = None
    video_min_total_pixels: int | None = None
    video_max_total_pixels: int | None = None
    video_min_frames: int | None = None
    video_max_frames: int | None = None
    rand_video_max_frames: int | None = None
    fps: float | None = None
    add_vision_id: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """The settings that are not None; `parse_overrides` reads them back."""
        settings = dataclasses.asdict(self)
        return {key: value for key, value in settings.items() if value is not None}


OVERRIDE_KEYS = tuple(field.name for field in dataclasses.fields(Overrides))


def parse_overrides(settings: Mapping[str, Any], where: str) -> Overrides | None:
    """Parses the override keys of `settings` and ignores all other keys; None without any.

    Raises:
      AnnotationError: a value has the wrong type.
    """
    values = {key: settings[key] for key in OVERRIDE_KEYS if settings.get(key) is not None}
    for key, value in values.items():
        if key == "add_vision_id":
            valid, expected = isinstance(value, bool), "true or false"
        elif key == "fps":
            valid = is_number(value) and 0 < value <= _HIGHEST_RATE
            expected = f"a positive number, at most {_HIGHEST_RATE:g}"
        else:
            most = _LARGEST_MINIMUM if "min" in key else _MOST_PIXELS
            most = _MOST_FRAMES if key.endswith("frames") else most
            valid = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
            expected = f"an integer of at least 1, at most {most:,}"
        if not valid:
            raise AnnotationError(f"{where} has {key} {str(value)[:80]}; it must be {expected}")
    return Overrides(**values) if values else None


def merge_overrides(first: Overrides | None, second: Overrides | None) -> Overrides | None:
    """Merges two sets of overrides; `first` takes precedence."""
    settings = {}
    for overrides in (second, first):
        if overrides:
            settings |= overrides.to_dict()
    return Overrides(**settings) if settings else None
