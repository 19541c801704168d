"""Which frames are seen, when, how large, and where their tokens lie: as in transformers.

Compared are rows that the processor of Qwen3-VL gave for a table of videos (tests/make_parity.py).
"""

import json
import pathlib

import numpy as np
import pytest

from data_pipelines.layout import LayoutRule
from data_pipelines.media import VideoRef
from data_pipelines.media_error import MediaError
from data_pipelines.sources import Sample
from data_pipelines.video import resize
from ivx.text import tokenizer
from ivx.text.chat_template import VIDEO_PLACEHOLDER
from tests.parity import peer_processor, pictures, videos

GOLDEN = pathlib.Path(__file__).parent / "golden" / "parity" / "processor.json"
TABLE = videos.table()


def ours(case: videos.Case) -> dict:
    rule = LayoutRule(tokenizer.load("compact"), case.frames, case.budget)
    asked = {"role": "user", "content": VIDEO_PLACEHOLDER + peer_processor.QUESTION}
    layout = rule(Sample("x", (asked,), (VideoRef("x.mp4", case.info),)), generate=True)
    [clip] = layout.clips
    grid = (len(clip.times), *clip.patch_shape)
    return videos.row(clip.indices, clip.times, grid, layout.tokens, layout.positions)


def test_the_table_holds_videos_of_every_kind():
    assert len(TABLE) >= 60 and len(set(TABLE)) == len(TABLE)
    sides = [max(c.info.width, c.info.height) / min(c.info.width, c.info.height) for c in TABLE]
    assert max(sides) == 200 and min(c.info.height for c in TABLE) == 16
    assert {1, 2048} <= {case.info.num_frames for case in TABLE}
    assert any(row["grid"][0] == 1024 for row in json.loads(GOLDEN.read_text()))


@pytest.mark.parametrize("number", range(len(TABLE)))
def test_a_video_lies_as_in_transformers(number):
    """But for sides so unlike that theirs exceeds the budget, with which packing counts here."""
    case, theirs = TABLE[number], json.loads(GOLDEN.read_text())[number]
    slices, rows, columns = theirs["grid"]
    if 2 * slices * rows * columns * resize.PATCH**2 > case.budget.max_pixels:
        with pytest.raises(MediaError, match="exceed the budget"):
            ours(case)
    else:
        assert ours(case) == theirs


@pytest.mark.parametrize("number", range(len(pictures.SIZES)))
def test_pixels_are_theirs_within_rounding(number):
    """Bicubic with antialias, by PIL here and by torchvision there: one step of 255 at most."""
    picture, (height, width) = pictures.picture(number), pictures.SIZES[number][1]
    theirs = np.load(GOLDEN.with_name("pixels.npz"))[str(number)]
    away = np.abs(resize.resize_frame(picture, height, width).astype(int) - theirs)
    assert away.max() <= 1 and away.mean() < 0.01
