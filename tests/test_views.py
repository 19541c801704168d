"""Parts of a video: which frames a span shows, at which times, and how an agent looks at them."""

import itertools
import json
import pathlib

import numpy as np
import pytest

from data_pipelines import plan, sources
from data_pipelines.media_error import MediaError
from data_pipelines.video import frames
from data_pipelines.video.info import VideoInfo
from data_pipelines.views import Footage, Looks

RULE = frames.FrameRule(fps=2.0, min_frames=4, max_frames=16)
INFO = VideoInfo(480, 24.0, 64, 64)


@pytest.mark.parametrize("num_frames", [1, 2, 3, 24, 47, 480])
@pytest.mark.parametrize("rate", [0.7, 24.0, 29.97])
def test_the_span_of_the_whole_video_shows_what_no_span_shows(num_frames, rate):
    info = VideoInfo(num_frames, rate, 64, 64)
    whole = frames.frame_indices(info, RULE)
    spanned = frames.frame_indices(info, RULE, (0.0, num_frames / rate))
    np.testing.assert_array_equal(whole, spanned)


@pytest.mark.parametrize(
    ("span", "first", "last"),
    [
        ((8.0, 12.0), 192, 287),
        ((8.02, 8.03), 192, 192),
        ((7.98, 8.0), 191, 191),
        ((19.9, 99.0), 477, 479),
        ((0.0, 1 / 24), 0, 0),
    ],
)
def test_a_span_shows_the_frames_on_show_in_it(span, first, last):
    """Frame i is on show from i / 24 to (i + 1) / 24 seconds."""
    indices = frames.frame_indices(INFO, frames.FrameRule(24.0, 1, 1000), span)
    assert (indices[0], indices[-1]) == (first, last)
    assert set(indices) == set(range(first, last + 1))


@pytest.mark.parametrize("span", [(20.0, 21.0), (5.0, 5.0), (5.0, 4.0), (-1.0, 1.0)])
def test_a_span_without_frames_is_refused(span):
    with pytest.raises(MediaError, match="no frame is on show"):
        frames.frame_indices(INFO, RULE, span)


def test_times_of_a_span_are_those_of_the_file(rule):
    """One frame a second of the seconds 8 to 12, in a layout of its own."""
    item = Footage("a.mp4", INFO).item((8.0, 12.0), 1.0)
    layout = rule(_sample([item]))
    indices = np.array([192, 224, 255, 287])  # round(linspace(192, 287, 4))
    np.testing.assert_array_equal(layout.clips[0].indices, indices)
    np.testing.assert_allclose(layout.clips[0].times, (indices / 24).reshape(2, 2).mean(1))
    assert "<8.7 seconds>" in rule.tokenizer.decode(layout.tokens, skip_special=False)


def test_two_spans_of_a_file_are_two_clips_that_keep_their_rates_through_a_plan(rule, shape):
    items = [
        Footage("a.mp4", INFO).item((0.0, 4.0), 1.0),
        Footage("a.mp4", INFO).item((4.0, 8.0), 0.5),
        Footage("a.mp4", INFO).item(),
    ]
    sample = _sample(items)
    assert [video.span for video in sample.videos] == [(0.0, 4.0), (4.0, 8.0), None]
    [measured] = plan.measure([sample], rule, shape).samples
    assert measured.videos == sample.videos
    counts = [len(clip.indices) for clip in rule(measured).clips]
    assert counts == [4, 2, 16]


def _sample(items: list[dict]) -> sources.Sample:
    text = {"type": "text", "text": "<VIDEO_CONTEXT>" * len(items)}
    messages = [
        {"role": "user", "content": [*items, text]},
        {"role": "assistant", "content": "Yes."},
    ]
    return sources.sample({"id": "x", "messages": messages}, "here", pathlib.Path("/tmp"))


def _line(**video) -> str:
    item = {"type": "video_url", "video_url": {"url": "a.mp4", **video}}
    text = {"type": "text", "text": "<VIDEO_CONTEXT>"}
    return json.dumps({"messages": [{"role": "user", "content": [item, text]}]})


CALL = {"name": "a", "arguments": {}}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (_line(span=[4.0, 2.0]), r"span \[4.0, 2.0\]"),
        (_line(span=[-1, 2]), "span"),
        (_line(span=[1]), "span"),
        (_line(span=[0, "b"]), "span"),
        (_line(span="0-2"), "span"),
        (_line(span=[0, float("nan")]), "span"),
        (_line(fps=0), "fps 0"),
        (_line(fps="two"), "fps 'two'"),
        ('{"messages": [], "tools": {"name": "a"}}', "tools must be a list"),
        ('{"messages": [], "tools": [{"name": "a"}]}', "the tool .* not of the form"),
        (
            json.dumps({"messages": [{"role": "assistant", "content": "", "tool_calls": [5]}]}),
            "the tool call 5",
        ),
        (
            json.dumps({"messages": [{"role": "user", "content": "", "tool_calls": [CALL]}]}),
            "only an assistant calls",
        ),
    ],
)
def test_bad_spans_tools_and_calls_are_named_by_file_and_line(tmp_path, line, complaint):
    (tmp_path / "x.jsonl").write_text(_line(span=[0, 2], fps=1) + "\n" + line + "\n")
    data_set = sources.DataSet("x", (tmp_path / "x.jsonl",), tmp_path, 1.0)
    with pytest.raises(sources.AnnotationError, match=complaint) as error:
        sources.read_samples(data_set)
    assert "x.jsonl:2" in str(error.value)


@pytest.mark.parametrize("seconds", [0.5, 5, 6, 8.9, 9.1, 61, 7200])
def test_shots_cover_the_video_in_equal_parts(seconds):
    footage = Footage("a.mp4", VideoInfo(round(seconds * 24), 24.0, 64, 64))
    spans = footage.shots(Looks(max_shots=100))
    assert spans[0][0] == 0 and spans[-1][1] == round(footage.seconds, 1) and len(spans) <= 100
    assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
    lengths = [end - start for start, end in spans]
    longest = max(6.0, seconds / 100)
    np.testing.assert_allclose(lengths[:-1], longest, atol=0.11)
    assert lengths[-1] < 1.5 * longest + 0.11 and (len(spans) == 1 or lengths[-1] > longest / 2 - 1)


@pytest.mark.parametrize("seconds", [20, 61, 119, 7200])
@pytest.mark.parametrize("rate", [2.0, 24.0, 29.97])
def test_views_have_the_frames_they_are_meant_to_have(seconds, rate):
    info = VideoInfo(round(seconds * rate), rate, 64, 64)
    footage, looks = Footage("a.mp4", info), Looks()

    def count(view: dict) -> int:
        video = view["video_url"]
        rule = frames.FrameRule(video["fps"], min_frames=2, max_frames=768)
        return len(frames.frame_indices(info, rule, video.get("span")))

    assert count(footage.overview(looks)) == 8
    assert count(footage.shot((6.0, 12.0), looks)) == 6
    assert count(footage.dense((6.0, 12.0), looks, 64)) == 12
    assert count(footage.dense((6.0, 19.0), looks, 64)) == 12
    assert count(footage.dense((6.0, 12.0), looks, 4)) == 4
    assert count(footage.dense((6.0, 8.0), looks, 64)) == 4
