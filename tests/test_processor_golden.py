"""Frame indices, times, sizes and token positions match Qwen3-VL's processor in transformers.

A golden file holds the processor's output for a table of videos, see tests/make_parity.py.
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


def layout_row(case: videos.Case) -> dict:
    rule = LayoutRule(tokenizer.load("compact"), case.frames, case.budget)
    message = {"role": "user", "content": VIDEO_PLACEHOLDER + peer_processor.QUESTION}
    layout = rule.lay_out(Sample("x", (message,), (VideoRef("x.mp4", case.info),)), generate=True)
    [clip] = layout.clips
    grid = (len(clip.times), *clip.patch_shape)
    return videos.row(clip.indices, clip.times, grid, layout.tokens, layout.positions)


def test_table_covers_all_kinds_of_videos():
    assert len(TABLE) >= 60 and len(set(TABLE)) == len(TABLE)
    sides = [max(c.info.width, c.info.height) / min(c.info.width, c.info.height) for c in TABLE]
    assert max(sides) == 200 and min(c.info.height for c in TABLE) == 16
    assert {1, 2048} <= {case.info.num_frames for case in TABLE}
    assert any(row["grid"][0] == 1024 for row in json.loads(GOLDEN.read_text()))


@pytest.mark.parametrize("number", range(len(TABLE)))
def test_layout_matches_transformers(number):
    """Elongated videos for which transformers exceeds the budget are rejected, to bound packing."""
    case, expected = TABLE[number], json.loads(GOLDEN.read_text())[number]
    slices, rows, columns = expected["grid"]
    if 2 * slices * rows * columns * resize.PATCH**2 > case.budget.max_pixels:
        with pytest.raises(MediaError, match="exceed the budget"):
            layout_row(case)
    else:
        assert layout_row(case) == expected


@pytest.mark.parametrize("number", range(len(pictures.SIZES)))
def test_pixels_match_torchvision_within_rounding(number):
    """Antialiased bicubic resizing in PIL differs from torchvision by at most one step of 255."""
    picture, (height, width) = pictures.picture(number), pictures.SIZES[number][1]
    expected = np.load(GOLDEN.with_name("pixels.npz"))[str(number)]
    error = np.abs(resize.resize_frame(picture, height, width).astype(int) - expected)
    assert error.max() <= 1 and error.mean() < 0.01
