"""A table of questions about images, given by size, and image files of several kinds."""

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import ExifTags, Image

from data_pipelines.layout import Layout, LayoutRule
from data_pipelines.media import ImageRef, VideoRef
from data_pipelines.sources import Sample
from data_pipelines.video import info as infos
from data_pipelines.video.info import VideoInfo
from data_pipelines.video.resize import QWEN3_VL_IMAGES, PixelBudget
from ivx.text import tokenizer
from ivx.text.chat_template import IMAGE_PLACEHOLDER as IMAGE
from ivx.text.chat_template import VIDEO_PLACEHOLDER as VIDEO
from tests.parity import videos

# The small experiments of ivx.
TINY = PixelBudget(4096, 12 * 32 * 32)
# Qwen3-VL, the training of InternVideo3, TINY, and one or two tokens.
BUDGETS = (QWEN3_VL_IMAGES, PixelBudget(4096, 16384 * 4 * 32 * 32), TINY, PixelBudget(1, 2048))

# (width, height): tiny, odd, between multiples of 32, common, huge, and extreme aspect ratios.
SIZES = (
    (1, 1),
    (16, 24),
    (31, 33),
    (32, 32),
    (48, 80),
    (79, 81),
    (333, 517),
    (640, 480),
    (1280, 720),
    (1080, 1920),
    (4000, 3000),
    (7000, 9000),
    (6400, 32),
    (32, 6400),
    (2, 400),
    (40, 4000),
    (1001, 7),
)
_SHORT, _LONG = VideoInfo(4, 1.0, 320, 240), VideoInfo(60, 2.0, 333, 517)
# (user messages, images, videos)
_CONVERSATIONS = (
    ((f"{IMAGE}{IMAGE}What differs?",), ((640, 480), (48, 80)), ()),
    ((f"One: {IMAGE}\nTwo: {IMAGE}\nThree: {IMAGE}",), ((31, 33), (1, 1), (6400, 32)), ()),
    ((f"What is {IMAGE}?", f"And {IMAGE}?"), ((333, 517), (1280, 720)), ()),
    ((f"{IMAGE}{VIDEO}Is it in there?",), ((79, 81),), (_SHORT,)),
    ((f"{VIDEO}{IMAGE}Is it in there?",), ((79, 81),), (_SHORT,)),
    (
        (f"{IMAGE}{VIDEO}{IMAGE}Who?", f"{VIDEO} or {IMAGE}?"),
        ((16, 24), (640, 480), (40, 4000)),
        (_LONG, _SHORT),
    ),
    ((f"{VIDEO}{VIDEO}Which?",), (), (_LONG, _SHORT)),
    (("Who?", f"{IMAGE}", "Sure?"), ((32, 32),), ()),
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A conversation that ends with an open turn, and the budget of its images."""

    turns: tuple[str, ...]
    images: tuple[tuple[int, int], ...]
    videos: tuple[VideoInfo, ...]
    budget: PixelBudget

    @property
    def messages(self) -> list[dict]:
        """The user messages, with an answer after each but the last."""
        turns = [
            [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}]
            for text in self.turns
        ]
        return list(itertools.chain(*turns))[:-1]

    @property
    def items(self) -> list[dict]:
        """The messages in the format of transformers: images and videos are items."""
        return [message | {"content": _items(message["content"])} for message in self.messages]

    def layout(self) -> Layout:
        """The layout of the ivx pipeline."""
        rule = LayoutRule(tokenizer.load("compact"), *videos.QWEN3_VL, self.budget)
        sample = Sample(
            "x",
            tuple(self.messages),
            tuple(VideoRef("x.mp4", info) for info in self.videos),
            images=tuple(ImageRef("x.png", infos.still(*size)) for size in self.images),
        )
        return rule.lay_out(sample, generate=True)


def table() -> list[Case]:
    """Each size and each conversation under each budget."""
    single = [((f"{IMAGE}What is shown?",), (size,), ()) for size in SIZES]
    return [Case(*case, budget) for budget in BUDGETS for case in (*single, *_CONVERSATIONS)]


def row(
    image_grids: Iterable[Sequence[int]],
    video_grids: Iterable[Sequence[int]],
    tokens: np.ndarray,
    positions: np.ndarray,
) -> dict:
    """The compared values of a conversation.

    Args:
      image_grids: 1, rows and columns of patches of each image.
      video_grids: slices, rows and columns of each video.
      tokens: [T] ids of the prompt, from the compact tokenizer.
      positions: [3, T].
    """
    return {
        "images": [[int(side) for side in grid] for grid in image_grids],
        "videos": [[int(side) for side in grid] for grid in video_grids],
        "tokens": len(tokens),
        "digests": [videos.digest(array) for array in (tokens, positions)],
    }


# (file, width and height as stored, mode, EXIF orientation)
FILES = (
    ("larger.png", (150, 97), "RGB", 1),
    ("smaller.png", (33, 40), "RGB", 1),
    ("as_it_is.png", (96, 64), "RGB", 1),
    ("thin.png", (5, 400), "RGB", 1),
    ("tiny.png", (3, 2), "RGB", 1),
    ("photo.jpg", (120, 90), "RGB", 6),
    ("mirrored.jpg", (90, 120), "RGB", 5),
    ("grey.jpg", (100, 100), "L", 1),
    ("grey.png", (65, 63), "L", 3),
    ("palette.gif", (128, 100), "P", 1),
    ("bits.png", (80, 100), "1", 1),
    ("print.jpg", (100, 70), "CMYK", 1),
)


def write(folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes the files: gradients, edges and noise."""
    paths = []
    for index, (name, (width, height), mode, orientation) in enumerate(FILES):
        rng = np.random.default_rng(index)
        y, x = np.mgrid[:height, :width]
        ramp = 255 * (y / height + x / width) / 2
        edges = 255.0 * ((y // 9 + x // 7) % 2)
        noise = rng.integers(0, 256, (height, width))
        picture = np.stack([ramp, edges, noise], -1).astype(np.uint8)
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        options = {"exif": exif} if orientation > 1 else {}
        paths.append(folder / name)
        Image.fromarray(picture).convert(mode).save(paths[-1], **options)
    return paths


def _items(text: str) -> list[dict]:
    kinds = {IMAGE: {"type": "image"}, VIDEO: {"type": "video"}}
    parts = re.split(f"({IMAGE}|{VIDEO})", text)
    return [kinds.get(part, {"type": "text", "text": part}) for part in parts if part]
