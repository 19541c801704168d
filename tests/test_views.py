"""Spans of a video: their frames and times, and the views of an agent."""

import itertools
import json
import pathlib

import numpy as np
import pytest

from data_pipelines import plan, sources
from data_pipelines.media_error import MediaError
from data_pipelines.video import frames
from data_pipelines.video.info import VideoInfo
from data_pipelines.views import VideoFile, ViewConfig

RULE = frames.FrameRule(fps=2.0, min_frames=4, max_frames=16)
INFO = VideoInfo(480, 24.0, 64, 64)


@pytest.mark.parametrize("num_frames", [1, 2, 3, 24, 47, 480])
@pytest.mark.parametrize("rate", [0.7, 24.0, 29.97])
def test_span_of_the_full_video_gives_the_frames_without_a_span(num_frames, rate):
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
def test_span_gives_the_frames_on_screen_in_it(span, first, last):
    """Frame i is on screen from i / 24 to (i + 1) / 24 seconds."""
    indices = frames.frame_indices(INFO, frames.FrameRule(24.0, 1, 1000), span)
    assert (indices[0], indices[-1]) == (first, last)
    assert set(indices) == set(range(first, last + 1))


@pytest.mark.parametrize("span", [(20.0, 21.0), (5.0, 5.0), (5.0, 4.0), (-1.0, 1.0)])
def test_span_without_frames_is_rejected(span):
    with pytest.raises(MediaError, match="no frame is on show"):
        frames.frame_indices(INFO, RULE, span)


def test_span_keeps_the_times_of_the_file(rule):
    """One frame per second of the seconds 8 to 12."""
    item = VideoFile("a.mp4", INFO).item((8.0, 12.0), 1.0)
    layout = rule.lay_out(_sample([item]))
    indices = np.array([192, 224, 255, 287])  # round(linspace(192, 287, 4))
    np.testing.assert_array_equal(layout.clips[0].indices, indices)
    np.testing.assert_allclose(layout.clips[0].times, (indices / 24).reshape(2, 2).mean(1))
    assert "<8.7 seconds>" in rule.tokenizer.decode(layout.tokens, skip_special=False)


def test_spans_of_a_file_keep_their_frame_rates_through_a_plan(rule, shape):
    items = [
        VideoFile("a.mp4", INFO).item((0.0, 4.0), 1.0),
        VideoFile("a.mp4", INFO).item((4.0, 8.0), 0.5),
        VideoFile("a.mp4", INFO).item(),
    ]
    sample = _sample(items)
    assert [video.span for video in sample.videos] == [(0.0, 4.0), (4.0, 8.0), None]
    [measured] = plan.measure([sample], rule, shape).samples
    assert measured.videos == sample.videos
    counts = [len(clip.indices) for clip in rule.lay_out(measured).clips]
    assert counts == [4, 2, 16]


def _sample(items: list[dict]) -> sources.Sample:
    text = {"type": "text", "text": "<VIDEO_CONTEXT>" * len(items)}
    messages = [
        {"role": "user", "content": [*items, text]},
        {"role": "assistant", "content": "Yes."},
    ]
    return sources.parse_sample({"id": "x", "messages": messages}, "here", pathlib.Path("/tmp"))


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
def test_bad_span_tool_or_call_error_names_file_and_line(tmp_path, line, complaint):
    (tmp_path / "x.jsonl").write_text(_line(span=[0, 2], fps=1) + "\n" + line + "\n")
    data_set = sources.DataSet("x", (tmp_path / "x.jsonl",), tmp_path, 1.0)
    with pytest.raises(sources.AnnotationError, match=complaint) as error:
        sources.read_samples(data_set)
    assert "x.jsonl:2" in str(error.value)


@pytest.mark.parametrize("seconds", [0.5, 5, 6, 8.9, 9.1, 61, 7200])
def test_shots_cover_the_video_in_equal_parts(seconds):
    video_file = VideoFile("a.mp4", VideoInfo(round(seconds * 24), 24.0, 64, 64))
    spans = video_file.shots(ViewConfig(max_shots=100))
    assert spans[0][0] == 0 and spans[-1][1] == round(video_file.seconds, 1) and len(spans) <= 100
    assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
    lengths = [end - start for start, end in spans]
    longest = max(6.0, seconds / 100)
    np.testing.assert_allclose(lengths[:-1], longest, atol=0.11)
    assert lengths[-1] < 1.5 * longest + 0.11 and (len(spans) == 1 or lengths[-1] > longest / 2 - 1)


@pytest.mark.parametrize("seconds", [20, 61, 119, 7200])
@pytest.mark.parametrize("rate", [2.0, 24.0, 29.97])
def test_views_have_the_configured_frame_counts(seconds, rate):
    info = VideoInfo(round(seconds * rate), rate, 64, 64)
    video_file, view_config = VideoFile("a.mp4", info), ViewConfig()

    def count(view: dict) -> int:
        video = view["video_url"]
        rule = frames.FrameRule(video["fps"], min_frames=2, max_frames=768)
        span = tuple(video["span"]) if "span" in video else None
        return len(frames.frame_indices(info, rule, span))

    assert count(video_file.overview(view_config)) == 8
    assert count(video_file.shot_view((6.0, 12.0), view_config)) == 6
    assert count(video_file.dense_view((6.0, 12.0), view_config, 64)) == 12
    assert count(video_file.dense_view((6.0, 19.0), view_config, 64)) == 12
    assert count(video_file.dense_view((6.0, 12.0), view_config, 4)) == 4
    assert count(video_file.dense_view((6.0, 8.0), view_config, 64)) == 4
