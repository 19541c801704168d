"""`ivx data inspect`: the page shows the input of the model."""

import dataclasses
import json
import re

import numpy as np
import pytest

from data_pipelines import plan
from data_pipelines.media import VideoRef
from data_pipelines.prepared import write
from ivx.reporting import data_page
from tests.command import ivx, refused


@pytest.fixture(scope="module")
def page(samples, rule, shape, tmp_path_factory) -> str:
    gone = dataclasses.replace(samples[0], id="/nowhere/mine.jsonl:3")
    video = dataclasses.replace(gone.videos[0], path="/nowhere/<gone>.mp4")
    gone = dataclasses.replace(gone, videos=(VideoRef(video.path, video.info),))
    member = plan.Member(plan.measure([*samples, gone], rule, shape), 1.0)
    planned = plan.make_plan([member], shape, 4, 2, seed=0)
    total = len(samples) + 1
    folder = tmp_path_factory.mktemp("page")
    path = data_page.write(folder, {"pack": "512"}, {"x": member}, planned, rule, shape, total)
    return path.read_text()


def test_page_shows_each_slice_with_its_time(page, layouts):
    for layout in layouts:
        for clip in layout.clips:
            for time in clip.times[[0, -1]]:
                assert f"<figcaption>{time:.1f} s</figcaption>" in page
    assert page.count("data:image/jpeg;base64,") == page.count("<figure>") > len(layouts)


def test_page_marks_only_text_that_bears_loss(page, samples):
    marked = re.findall(r'<span class="trained">([^<]*)</span>', page)
    answers = {m["content"] for s in samples for m in s.messages if m["role"] == "assistant"}
    assert answers <= set(marked)
    assert set(marked) <= answers | {"&lt;|im_end|&gt;", "Green"}


def test_page_escapes_the_name_of_an_unreadable_file(page):
    assert "&lt;gone&gt;.mp4: no such file" in page and "<gone>" not in page
    assert "/nowhere" not in page and "mine.jsonl:3" in page


def test_page_shortens_long_videos(rule, layouts):
    """The first and last slices stay; the page says how many are left out between them."""
    [layout] = [candidate for candidate in layouts if len(candidate.slice_sizes) > 2][:1]
    visual = np.flatnonzero(np.diff(layout.is_visual.astype(int), prepend=0) == 1)
    first = slice(0, visual[0] + layout.is_visual[visual[0] :].argmin())
    many = dataclasses.replace(
        layout,
        tokens=np.tile(layout.tokens[first], 20),
        trained=np.tile(layout.trained[first], 20),
        is_visual=np.tile(layout.is_visual[first], 20),
    )
    parts = data_page._shortened(data_page._parts(many, rule))
    kinds = [part.kind for part in parts]
    [skipped] = [part.text for part in parts if part.kind == "skipped"]
    assert kinds.count("visual") + int(skipped.split()[0]) == 20


def test_inspect_command_shows_prepared_data(data_folder, rule, tmp_path):
    out = tmp_path / "out"
    write.prepare(data_folder / "data.json", ("synthetic_train",), out, rule, write.Options(0))
    arguments = ("--config=experiments/sft_short.py:tiny", f"--out={tmp_path / 'page'}")
    run = ivx(
        *("data", "inspect", *arguments, "--samples=3", "--json"),
        f"--config.data.mixture={out / 'data.json'}",
        "--config.data.train=('synthetic_train',)",
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout.splitlines()[-1])
    text = (tmp_path / "page" / "inspect.html").read_text()
    assert f"{result['token_fill']:.1%}" in text and text.count('class="card box"') == 3
    assert "no --config.data.mixture" in refused(ivx("data", "inspect", *arguments))
