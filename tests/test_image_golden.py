"""Image sizes, token positions and pixels match Qwen3-VL's processor in transformers.

Golden files hold the processor's output for a table of conversations and for image files, see
tests/make_parity.py.
"""

import json
import pathlib

import numpy as np
import pytest
from jinja2 import sandbox

from data_pipelines.layout import LayoutRule
from data_pipelines.media import ImageRef
from data_pipelines.sources import Sample
from ivx.hf import write
from ivx.text import chat_template, tokenizer
from tests.parity import images, videos

GOLDEN = pathlib.Path(__file__).parent / "golden" / "parity" / "image_processor.json"
TABLE = images.table()


def layout_row(case: images.Case) -> dict:
    layout = case.layout()
    grids = {
        still: [
            (len(clip.times), *clip.patch_shape) for clip in layout.clips if clip.still == still
        ]
        for still in (True, False)
    }
    return images.row(grids[True], grids[False], layout.tokens, layout.positions)


def test_table_covers_all_kinds_of_images():
    assert len(TABLE) >= 60 and len(set(TABLE)) == len(TABLE)
    rows = json.loads(GOLDEN.read_text())
    grids = [grid for row in rows for grid in row["images"]]
    assert [1, 2, 2] in grids and any(h * w > 60000 for _, h, w in grids)
    assert any(w >= 100 * h for _, h, w in grids) and any(h >= 100 * w for _, h, w in grids)
    assert any(len(row["images"]) > 2 for row in rows)
    assert sum(bool(row["images"] and row["videos"]) for row in rows) >= 6


@pytest.mark.parametrize("number", range(len(TABLE)))
def test_layout_matches_transformers(number):
    assert layout_row(TABLE[number]) == json.loads(GOLDEN.read_text())[number]


def test_exported_chat_template_writes_the_same_text():
    environment = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(write.TEMPLATE.read_text())
    image, video = "<|vision_start|><|image_pad|><|vision_end|>", "<|video_pad|>"
    for case in TABLE:
        media = [video] * len(case.videos), [image] * len(case.images)
        pieces = chat_template.render(case.messages, media[0], generate=True, images=media[1])
        text = template.render(messages=case.items, add_generation_prompt=True)
        assert text == "".join(piece.text for piece in pieces)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, pathlib.Path]:
    return {path.name: path for path in images.write(tmp_path_factory.mktemp("files"))}


@pytest.mark.parametrize("name", [name for name, *_ in images.FILES])
def test_pixels_match_transformers_within_rounding(files, name):
    """Decoded, rotated, resized patches differ by at most two steps of 255, on pure noise."""
    rule = LayoutRule(tokenizer.load("compact"), *videos.QWEN3_VL, images.TINY)
    user = {"role": "user", "content": images.IMAGE}
    layout = rule.lay_out(Sample("x", (user,), (), images=(ImageRef(str(files[name]), None),)))
    [rows], _ = layout.read_patches()
    expected = np.load(GOLDEN.with_name("image_pixels.npz"))[name]
    assert rows.shape == expected.shape
    error = np.abs(rows.astype(int) - expected)
    print(f"{name}: maximum error {error.max()}, mean {error.mean():.5f}")
    assert error.max() <= 2 and error.mean() < 0.01
