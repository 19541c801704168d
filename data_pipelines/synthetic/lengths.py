"""Random sample sizes of a plausible training mixture, without samples, to test packing.

    40 %  text only     about 300 text tokens, log-normal with a factor of 2.5
    35 %  image chats   one to four images of about 0.7 megapixels, about 400 text tokens
    25 %  videos        1 to 15 minutes, log-uniform, about 250 text tokens

Half the videos have 640x360 pixels, a quarter 854x480 and a quarter 1280x720, at 30 frames per
second. Frames, grids and budgets follow the real layout; only text lengths are drawn directly. The
proportions and spreads are assumptions: the released mixtures publish none.
"""

import dataclasses

import numpy as np

from data_pipelines.bin_packing import Sizes
from data_pipelines.packing import Size
from data_pipelines.video import frames, resize
from data_pipelines.video.info import VideoInfo

_SHARES = (0.4, 0.35, 0.25)
_TEXT = (300, 400, 250)
VIDEOS = ((640, 360), (640, 360), (854, 480), (1280, 720))
# Tokens of "<123.4 seconds>" and the delimiters of a slice.
_SLICE_TEXT = 10


@dataclasses.dataclass(frozen=True)
class Stage:
    """The settings of a training stage that determine sample sizes."""

    frame_rule: frames.FrameRule
    budget: resize.PixelBudget
    image_budget: resize.PixelBudget


def draw(stage: Stage, count: int, seed: int) -> Sizes:
    """Draws the sizes of `count` samples."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(3, count, p=_SHARES)
    text = rng.lognormal(np.log(np.take(_TEXT, kinds)), np.log(2.5)).astype(np.int64) + 8
    return Sizes.of(
        [
            _size(stage, kind, words, rng)
            for kind, words in zip(kinds.tolist(), text.tolist(), strict=True)
        ]
    )


def _size(stage: Stage, kind: int, words: int, rng: np.random.Generator) -> Size:
    runs = ()
    if kind == 1:
        runs = tuple(_image(stage, rng) for _ in range(rng.integers(1, 5)))
    elif kind == 2:
        runs = (_video(stage, rng),)
    visual = sum(count * (patches // resize.MERGE**2) for patches, count in runs)
    return Size(words + visual + _SLICE_TEXT * sum(count for _, count in runs), runs)


def _image(stage: Stage, rng: np.random.Generator) -> tuple[int, int]:
    side = np.sqrt(0.7e6 * rng.lognormal(0, np.log(2)))
    ratio = np.exp(rng.uniform(-0.6, 0.6))
    height, width = int(side * ratio) + 1, int(side / ratio) + 1
    return _patches(*resize.still_shape(height, width, stage.image_budget)), 1


def _video(stage: Stage, rng: np.random.Generator) -> tuple[int, int]:
    seconds = np.exp(rng.uniform(np.log(60), np.log(900)))
    width, height = VIDEOS[rng.integers(len(VIDEOS))]
    info = VideoInfo(int(30 * seconds), 30.0, width, height)
    count = len(frames.frame_indices(info, stage.frame_rule))
    shape = resize.resized_shape(count, height, width, stage.budget)
    return _patches(*shape), count // frames.FRAMES_PER_SLICE


def _patches(height: int, width: int) -> int:
    return height * width // resize.PATCH**2
