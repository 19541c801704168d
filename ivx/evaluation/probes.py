"""Prompts on which two models are compared: built-in ones that need no files, or the user's.

The built-in videos and images are drawn in memory: a square that moves over a colour gradient, in a
usual, a wide and a tall shape.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.frame_cache import Pixels
from data_pipelines.layout import Clip, Layout, LayoutRule
from data_pipelines.media import ImageRef, VideoRef
from data_pipelines.media_error import MediaError
from data_pipelines.sources import Sample
from data_pipelines.video import info as infos
from data_pipelines.video.info import VideoInfo
from data_pipelines.video.limits import Meter
from ivx import assistant
from ivx.errors import UserError
from ivx.text.chat_template import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER, TemplateError

_DRAWN = "a built-in picture"


def built_in() -> dict[str, Sample]:
    """Prompts by name: text in several scripts, and videos and images of usual and odd shapes."""
    usual, wide, tall = (
        VideoRef(_DRAWN, VideoInfo(frames, 2.0, width, height))
        for frames, width, height in ((12, 128, 96), (8, 192, 32), (5, 32, 96))
    )
    images = [
        ImageRef(_DRAWN, infos.still(width, height))
        for width, height in ((100, 70), (300, 40), (30, 90))
    ]
    return {
        "text": _sample("Name the days of the week, then count from 1 to 10."),
        "scripts": _sample("Translate: naïve café, Привет, 视频里发生了什么?, مرحبا, 3 × 7 = 21."),
        "video": _sample(f"{VIDEO_PLACEHOLDER}What happens in this video?", usual),
        "two videos": _sample(
            f"{VIDEO_PLACEHOLDER}Compare it with {VIDEO_PLACEHOLDER}: what differs?", wide, tall
        ),
        "image": _sample(f"{IMAGE_PLACEHOLDER}What is shown?", images=images[:1]),
        "mixed": _sample(
            f"Is {IMAGE_PLACEHOLDER} in {VIDEO_PLACEHOLDER}, or one of {IMAGE_PLACEHOLDER * 2}?",
            usual,
            images=images,
        ),
    }


def user_prompt(video: str, prompt: str, images: Sequence[str] = ()) -> dict[str, Sample]:
    """The user's prompt, optionally with a video file and images."""
    return {"prompt": assistant.question(prompt, video, images)}


def lay_out(samples: Mapping[str, Sample], rule: LayoutRule) -> list[Layout]:
    """The samples as prompts with an open assistant turn.

    Raises:
      UserError: a video or image cannot be read, or a prompt contains reserved tokens.
    """
    try:
        layouts = [rule.lay_out(sample, generate=True) for sample in samples.values()]
    except (MediaError, TemplateError) as error:
        raise UserError(str(error)) from error
    return [
        dataclasses.replace(layout, clips=tuple(map(_drawable, layout.clips))) for layout in layouts
    ]


def read(layouts: list[Layout]) -> list[Pixels]:
    """The result of `Layout.read_patches` of each layout.

    Raises:
      UserError: a video or image cannot be decoded.
    """
    try:
        return [layout.read_patches() for layout in layouts]
    except MediaError as error:
        raise UserError(str(error)) from error


def _sample(text: str, *videos: VideoRef, images: Sequence[ImageRef] = ()) -> Sample:
    return Sample("prompt", ({"role": "user", "content": text},), videos, images=tuple(images))


class _Drawn(Clip):
    """A clip whose frames are drawn instead of decoded."""

    def pictures(self, meter: Meter | None = None) -> list[np.ndarray]:
        del meter
        count = len(self.indices)
        rows, columns = np.mgrid[: self.height, : self.width]
        gradient = np.stack([rows * 255 // self.height, columns * 255 // self.width], -1)
        frames = np.empty((count, self.height, self.width, 3), np.uint8)
        frames[..., :2], frames[..., 2] = gradient, 96
        side = min(self.height, self.width) // 3
        for number, index in enumerate(self.indices):
            share = index / max(self.info.num_frames - 1, 1)
            top, left = (int(share * (edge - side)) for edge in (self.height, self.width))
            frames[number, top : top + side, left : left + side] = (255, 32, 0)
        return list(frames)


def _drawable(clip: Clip) -> Clip:
    return _Drawn(**vars(clip)) if clip.path == _DRAWN else clip
