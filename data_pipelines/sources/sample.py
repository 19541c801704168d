"""A sample, whatever source and format it came from, and what its data set changes for it."""

import dataclasses

from data_pipelines.media import ImageRef, VideoRef


@dataclasses.dataclass(frozen=True)
class Overrides:
    """What a data set changes of the rules by which samples are laid out; None changes nothing.

    The names are those of InternVideo3's mixtures.

    Attributes:
      min_pixels: least H * W of an image.
      max_pixels: most of it.
      video_min_total_pixels: least T * H * W of a video.
      video_max_total_pixels: most of it.
      video_min_frames: least frames sampled.
      video_max_frames: most of them.
      rand_video_max_frames: most frames of a video whose rate is unknown or does not divide.
      fps: frames sampled a second.
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


@dataclasses.dataclass(frozen=True)
class Sample:
    """One conversation.

    `truths` holds for each answer what an evaluation needs (format, answer, options, span);
    `tools` the schemas of the tools on offer; `overrides` what its data set changes; `where` is its
    place, file:line, for messages.
    """

    id: str
    messages: tuple[dict, ...]
    videos: tuple[VideoRef, ...]
    truths: tuple[dict, ...] = ()
    tools: tuple[dict, ...] = ()
    images: tuple[ImageRef, ...] = ()
    overrides: Overrides | None = None
    where: str = ""
