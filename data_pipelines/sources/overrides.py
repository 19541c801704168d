"""Layout settings that a data set overrides, as mixtures and prepared samples store them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from data_pipelines.annotation_error import AnnotationError
from data_pipelines.formats.columns import is_number


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
            valid, expected = is_number(value) and value > 0, "a positive number"
        else:
            valid = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            expected = "an integer of at least 1"
        if not valid:
            raise AnnotationError(f"{where} has {key} {value!r}; it must be {expected}")
    return Overrides(**values) if values else None


def merge_overrides(first: Overrides | None, second: Overrides | None) -> Overrides | None:
    """Merges two sets of overrides; `first` takes precedence."""
    settings = {}
    for overrides in (second, first):
        if overrides:
            settings |= overrides.to_dict()
    return Overrides(**settings) if settings else None
