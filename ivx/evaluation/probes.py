"""Prompts on which two models are compared: built in, so that nothing is needed, or a user's own.

The built-in videos are drawn in memory: a square that wanders over a slope of colours, of a usual,
a wide and a tall shape.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from data_pipelines.layout import Clip, Layout, LayoutRule
from data_pipelines.sources import Sample, VideoRef
from data_pipelines.video.info import VideoError, VideoInfo
from ivx.errors import UserError
from ivx.text.chat_template import VIDEO_PLACEHOLDER, TemplateError

_DRAWN = "a built-in video"


def built_in() -> dict[str, Sample]:
    """Text in several scripts, a video, and two videos of odd shapes, by name."""
    usual, wide, tall = (
        VideoRef(_DRAWN, VideoInfo(frames, 2.0, width, height))
        for frames, width, height in ((12, 128, 96), (8, 192, 32), (5, 32, 96))
    )
    return {
        "text": _sample("Name the days of the week, then count from 1 to 10."),
        "scripts": _sample("Translate: naïve café, Привет, 视频里发生了什么?, مرحبا, 3 × 7 = 21."),
        "video": _sample(f"{VIDEO_PLACEHOLDER}What happens in this video?", usual),
        "two videos": _sample(
            f"{VIDEO_PLACEHOLDER}Compare it with {VIDEO_PLACEHOLDER}: what differs?", wide, tall
        ),
    }


def of_user(video: str, prompt: str) -> dict[str, Sample]:
    """One prompt, about a video file or, where `video` is empty, without one."""
    if not video:
        return {"prompt": _sample(prompt)}
    return {"prompt": _sample(VIDEO_PLACEHOLDER + prompt, VideoRef(video, None))}


def lay_out(samples: Mapping[str, Sample], rule: LayoutRule) -> list[Layout]:
    """The samples as prompts with an open assistant turn.

    Raises:
      UserError: a video cannot be read, or a prompt holds reserved tokens.
    """
    try:
        layouts = [rule(sample, generate=True) for sample in samples.values()]
    except (VideoError, TemplateError) as error:
        raise UserError(str(error)) from error
    return [dataclasses.replace(one, clips=tuple(map(_drawable, one.clips))) for one in layouts]


def read(layouts: list[Layout]) -> list[tuple]:
    """What `Layout.read_patches` gives, for each.

    Raises:
      UserError: a video cannot be decoded.
    """
    try:
        return [layout.read_patches() for layout in layouts]
    except VideoError as error:
        raise UserError(str(error)) from error


def _sample(text: str, *videos: VideoRef) -> Sample:
    return Sample("prompt", ({"role": "user", "content": text},), videos)


class _Drawn(Clip):
    """A clip that is drawn instead of decoded."""

    def read(self) -> np.ndarray:
        count = len(self.indices)
        rows, columns = np.mgrid[: self.height, : self.width]
        slope = np.stack([rows * 255 // self.height, columns * 255 // self.width], -1)
        frames = np.empty((count, self.height, self.width, 3), np.uint8)
        frames[..., :2], frames[..., 2] = slope, 96
        side = min(self.height, self.width) // 3
        for number, index in enumerate(self.indices):
            share = index / max(self.info.num_frames - 1, 1)
            top, left = (int(share * (edge - side)) for edge in (self.height, self.width))
            frames[number, top : top + side, left : left + side] = (255, 32, 0)
        return frames


def _drawable(clip: Clip) -> Clip:
    return _Drawn(**vars(clip)) if clip.path == _DRAWN else clip
