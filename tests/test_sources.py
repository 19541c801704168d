"""Sources of samples: mixtures of the release, its messages, faults."""

import contextlib
import dataclasses
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from data_pipelines import annotation_error, plan, sources
from data_pipelines.media_error import MediaError

WORDS = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}
SAID = {"role": "assistant", "content": "Yes."}


def shown(said: str = "<VIDEO_CONTEXT>What?", url: str = "a.mp4", **video) -> list[dict]:
    """Messages about a video."""
    item = {"type": "video_url", "video_url": {"url": url, **video}}
    return [{"role": "user", "content": [item, {"type": "text", "text": said}]}, SAID]


def data_set(folder, *lines, **changes) -> sources.DataSet:
    """Lines, as objects or as they are, in a file of a data set."""
    file = folder / "x.jsonl"
    encoded = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    file.write_bytes(b"".join(line + b"\n" for line in encoded))
    return dataclasses.replace(sources.DataSet("x", (file,), folder, 1.0), **changes)


def mixture(folder, **entry) -> pathlib.Path:
    """A mixture of one data set of one text."""
    (folder / "x.jsonl").write_text(json.dumps(WORDS) + "\n")
    path = folder / "data.json"
    path.write_text(json.dumps({"x": {"annotation": "x.jsonl", **entry}}))
    return path


def parse(messages: list[dict], root="/tmp", **more) -> sources.Sample:
    return sources.sample({"messages": messages, **more}, "here", pathlib.Path(root))


def said(rule, sample: sources.Sample) -> str:
    return rule.tokenizer.decode(rule(sample).tokens, skip_special=False)


# Mixtures


@pytest.mark.parametrize(
    ("ratio", "taken"),
    [
        (1.0, [0, 1, 2, 3]),
        (0.5, [0, 1]),
        (2.0, [0, 1, 2, 3, 0, 1, 2, 3]),
        (1.6, [0, 1, 2, 3, 0, 1]),
        (0.1, []),
    ],
)
def test_a_ratio_repeats_whole_rounds_and_then_takes_the_first(ratio, taken):
    assert sources.repeats(4, ratio).tolist() == taken


def test_a_ratio_that_takes_nothing_is_an_error_not_an_endless_plan(samples, rule, shape):
    measured = plan.measure(samples[:2], rule, shape)
    with pytest.raises(sources.AnnotationError, match="sample_ratio"):
        plan.make_plan([plan.Member(measured, 0.1)], shape, 2, 2, seed=0)


def test_a_folder_of_annotations_is_read_in_the_order_of_its_names(tmp_path):
    (tmp_path / "more").mkdir()
    for name in ("b", "a", "more/c"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": name, **WORDS}) + "\n")
    (tmp_path / "data.json").write_text(json.dumps({"x": {"annotation": "."}}))
    [member] = sources.read_mixture(tmp_path / "data.json", ("x",))
    assert [sample.id for sample in sources.read_samples(member)] == ["a", "b", "more/c"]


def test_a_data_set_changes_the_rules_of_its_own_samples(tmp_path, data_folder, rule):
    """The keys of the release: pixels, frames, rate, numbers before videos."""
    clip = next((data_folder / "clips" / "train").iterdir())
    (tmp_path / "a.mp4").write_bytes(clip.read_bytes())
    path = mixture(
        tmp_path,
        video_max_total_pixels=2 * 2048,
        video_max_frames=4,
        fps=4,
        enable_3d_rope=True,
        add_vision_id=True,
        max_pixels=4096,
    )
    [member] = sources.read_mixture(path, ("x",))
    (tmp_path / "x.jsonl").write_text(json.dumps({"messages": shown()}) + "\n")
    [sample] = sources.read_samples(member)
    [found] = rule(sample).clips
    assert len(found.indices) == 4 and found.token_shape == (1, 1)
    assert "Video 1: <" in said(rule, sample)
    [plain] = rule(dataclasses.replace(sample, overrides=None)).clips
    assert plain.token_shape != (1, 1) and plain.indices.tolist() != found.indices.tolist()
    assert rule.under(sample.overrides).image_budget.max_pixels == 4096


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"enable_3d_rope": False}, "positions have three axes"),
        ({"fps": 0}, "fps 0; it must be a positive number"),
        ({"video_max_frames": 2.5}, "whole number"),
        ({"add_vision_id": 1}, "true or false"),
        ({"sample_ratio": -1}, "sample_ratio"),
        ({"sample_ratio": True}, "sample_ratio"),
        ({"media_root": "https://example.com/v"}, "is not read"),
        ({"format": "csv"}, "there are messages, charades"),
        ({"tfds": "ivx"}, "tfds and split go together"),
        ({"fields": {"video": 5}}, "fields"),
        ({"surprise": 1}, "expected annotation and"),
    ],
)
def test_a_mixture_that_cannot_be_honoured_is_refused(tmp_path, entry, complaint):
    with pytest.raises(sources.AnnotationError, match=complaint):
        sources.read_mixture(mixture(tmp_path, **entry), ("x",))


def test_bounds_that_cross_are_an_error(rule):
    with pytest.raises(ValueError, match="video_min_frames = 99 exceeds"):
        rule.under(sources.Overrides(video_min_frames=99))
    with pytest.raises(ValueError, match="exceeds max_pixels"):
        rule.under(sources.Overrides(min_pixels=10**9))


# Messages of the release


def test_pretraining_bears_loss_on_all_but_vision_tokens(rule, samples):
    video = samples[0].messages[0]["content"][0]
    told = [
        {
            "role": "pretrain",
            "content": [video, {"type": "text", "text": "See <VIDEO_CONTEXT> a cat."}],
        }
    ]
    sample = dataclasses.replace(parse(told), videos=samples[0].videos)
    found = rule(sample)
    words = rule.tokenizer
    trained = words.decode(found.tokens[found.trained], skip_special=False)
    assert trained.startswith("See <") and trained.endswith(" a cat.<|im_end|>")
    assert "<|v" not in trained and "seconds>" in trained
    assert "<|im_start|>" not in words.decode(found.tokens, skip_special=False)


def test_pretraining_stands_alone(tmp_path):
    turn = {"role": "pretrain", "content": "A cat."}
    assert sources.read_samples(data_set(tmp_path, {"messages": [turn]}))
    with pytest.raises(sources.AnnotationError, match="pretrain stands alone"):
        sources.read_samples(data_set(tmp_path, {"messages": [turn, SAID]}))


def test_thinking_is_written_after_the_last_question_only(rule):
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1", "thinking": "First."},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": [{"type": "text", "text": "2"}], "thinking": "Second."},
    ]
    text = said(rule, parse(turns))
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
    assert "First." not in text
    assert "assistant\n<think>\nSecond.\n</think>\n\n2<|im_end|>" in text


def test_times_of_a_conversation_follow_their_video(rule, samples):
    text = {"type": "text", "text": "<VIDEO_CONTEXT>What?", "conversation_timestamps": [3, 7.25]}
    sample = dataclasses.replace(
        parse([{"role": "user", "content": [shown()[0]["content"][0], text]}, SAID]),
        videos=samples[0].videos,
    )
    assert "<|vision_end|><3.0-7.2 seconds>What?" in said(rule, sample)


def test_calls_of_openai_are_read(rule):
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    turns = [
        {"role": "user", "content": "Go."},
        {"role": "assistant", "content": "", "tool_calls": [call], "reasoning_content": "x"},
        {"role": "tool", "content": "done", "tool_call_id": "1"},
        SAID,
    ]
    assert '{"name": "f", "arguments": {"a": 1}}' in said(rule, parse(turns))


def frames_of(folder, count: int = 7) -> pathlib.Path:
    """A folder of frames, each of another brightness."""
    folder.mkdir()
    for number in range(1, count + 1):
        Image.new("RGB", (64, 32), (30 * number, 0, 0)).save(folder / f"{number:08d}.jpg")
    return folder


@pytest.mark.parametrize(
    ("described", "indices", "times"),
    [
        # A rate that fps = 1 divides is sampled again.
        ({"processed_video_length": 7, "processed_fps": 2.0}, [0, 3, 6, 6], [0.75, 3.0]),
        # One that it does not divide: all frames, up to rand_video_max_frames.
        ({"processed_video_length": 7, "processed_fps": 0.5}, range(7), [1.0, 5.0, 9.0, 12.0]),
        # Times of the frames, if they are given, are those that are told.
        (
            {
                "processed_video_length": 7,
                "processed_fps": 0.5,
                "frames_timestamp": [10, 11, 12, 13, 14, 15, 16],
            },
            range(7),
            [10.5, 12.5, 14.5, 16.0],
        ),
        ({"origin_video_length": 7, "origin_fps": 1.0}, range(7), [0.5, 2.5, 4.5, 6.0]),
        # Without a rate no time is told.
        ({}, range(7), None),
    ],
)
def test_a_folder_of_frames_is_a_video(tmp_path, rule, described, indices, times):
    frames_of(tmp_path / "clip")
    for size in ({"image_wh": [[64, 32]]}, {}):
        [video] = parse(shown(url="clip", **described, **size), tmp_path).videos
        clip = rule.clip(video)
        assert clip.indices.tolist()[: len(indices)] == list(indices)
        if times is None:
            assert clip.text.startswith("<|vision_start|>")
        else:
            np.testing.assert_allclose(clip.times, times)
            assert clip.text.startswith(f"<{times[0]:.1f} seconds><|vision_start|>")
        red = clip.read().mean(axis=(1, 2))[:, 0]
        np.testing.assert_allclose(red, 30 * (clip.indices + 1), atol=6)


def test_a_long_folder_gives_as_many_frames_as_the_rule_allows(tmp_path, rule):
    frames_of(tmp_path / "clip")
    [video] = parse(shown(url="clip"), tmp_path).videos
    clip = dataclasses.replace(rule, rand_max_frames=4).clip(video)
    assert clip.indices.tolist() == [0, 2, 4, 6]


def test_a_folder_with_a_gap_is_named(tmp_path, rule):
    (frames_of(tmp_path / "clip") / "00000003.jpg").unlink()
    [video] = parse(shown(url="clip"), tmp_path).videos
    with pytest.raises(MediaError, match=r"clip: no 00000003.jpg"):
        rule.clip(video)


# Faults


INFO = {"image_wh": [64, 32], "origin_video_length": 10, "origin_fps": 1.0}


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (b'{"messages": [', annotation_error.NOT_JSON),
        (b"[" * 100_000, annotation_error.NOT_JSON),
        (b'{"id": "\xff"}', annotation_error.NOT_TEXT),
        ([1, 2], annotation_error.TYPE),
        ({"id": 1}, annotation_error.MISSING),
        ({"messages": []}, annotation_error.MISSING),
        ({"messages": [{"role": "user"}]}, annotation_error.MISSING),
        ({**WORDS, "surprise": 1}, annotation_error.UNKNOWN),
        ({"messages": [{**SAID, "surprise": 1}]}, annotation_error.UNKNOWN),
        ({**WORDS, "id": [1]}, annotation_error.TYPE),
        ({"messages": [{"role": "user", "content": 5}]}, annotation_error.TYPE),
        ({"messages": [{"role": "boss", "content": "Hi"}]}, annotation_error.TEMPLATE),
        ({"messages": shown("no place for it")}, annotation_error.TEMPLATE),
        ({"messages": shown(surprise=1)}, annotation_error.UNKNOWN),
        ({"messages": shown(url=None)}, annotation_error.TYPE),
        ({"messages": shown(url="../a.mp4")}, annotation_error.ADDRESS),
        ({"messages": shown(url="gs://other/a.mp4")}, annotation_error.ADDRESS),
        ({"messages": shown(processed_fps=1.0)}, annotation_error.MISSING),
        ({"messages": shown(**INFO | {"image_wh": [0, 0]})}, annotation_error.TYPE),
        ({"messages": shown(**INFO, frames_timestamp=[1.0])}, annotation_error.VALUE),
        ({"messages": shown(**INFO, span=[12, 13])}, annotation_error.SPAN),
        (
            {"messages": shown(**INFO), "truths": [{"span": [8.0, 14.0]}]},
            annotation_error.SPAN,
        ),
        ({"messages": shown(), "truths": [{"span": [8.0, 4.0]}]}, annotation_error.SPAN),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            annotation_error.MISSING,
        ),
        ({"id": "one", **WORDS}, annotation_error.REPEATED),
    ],
)
def test_a_fault_is_named_by_line_and_cause_and_the_rest_is_read(tmp_path, line, cause):
    member = data_set(tmp_path, {"id": "one", **WORDS}, line, {"id": "two", **WORDS})
    found = sources.read(member)
    assert [sample.id for sample in found.samples] == ["one", "two"]
    [fault] = found.faults
    assert fault.cause == cause and fault.where.endswith("x.jsonl:2")
    assert fault.sentence.startswith(fault.where) and len(fault.sentence) < 600
    with pytest.raises(sources.AnnotationError, match=r"x\.jsonl:2"):
        sources.read_samples(member)


def test_half_a_line_at_the_end_is_told_from_a_bad_one(tmp_path):
    member = data_set(tmp_path, WORDS, WORDS | {"id": 2})
    [file] = member.annotations
    file.write_bytes(file.read_bytes()[:-9])
    [fault] = sources.read(member).faults
    assert fault.cause == annotation_error.CUT and "x.jsonl:2: half a line" in fault.sentence


def test_ids_may_repeat_where_nothing_is_told_apart_by_them(tmp_path):
    """In training both are kept, under names of their own; an evaluation refuses."""
    other = {"messages": [{"role": "user", "content": "Bye"}, SAID], "id": "one"}
    member = data_set(tmp_path, {"id": "one", **WORDS}, other)
    first, second = sources.read(member).samples
    assert first.id == "one" and second.id.startswith("one (") and second.id.endswith("jsonl:2)")
    with pytest.raises(sources.AnnotationError, match=r"the id one is that of .*x.jsonl:1, too"):
        sources.read_samples(member)


def test_separators_inside_of_a_line_do_not_cut_it(tmp_path):
    text = {"role": "user", "content": "a\u2028b\x85c"}
    line = json.dumps({"messages": [text, SAID]}, ensure_ascii=False).encode()
    [sample] = sources.read_samples(data_set(tmp_path, b"\xef\xbb\xbf" + line))
    assert sample.messages[0]["content"] == "a\u2028b\x85c"


JUNK = [
    None,
    True,
    -1,
    0.5,
    10**400,
    float("nan"),
    "",
    "x",
    "<VIDEO_CONTEXT>",
    [],
    [[]],
    {},
    [1, 2],
]


def spoil(value, rng) -> object:
    """A copy with one thing of another kind, gone, or too many."""
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.15:
        return JUNK[rng.integers(len(JUNK))]
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[rng.integers(len(keys))]
    copy = value.copy()
    if rng.random() < 0.2:
        del copy[key]
    elif rng.random() < 0.1 and isinstance(copy, dict):
        copy["surprise"] = JUNK[rng.integers(len(JUNK))]
    else:
        copy[key] = spoil(value[key], rng)
    return copy


def test_whatever_stands_in_a_line_is_a_sample_or_a_fault(tmp_path, rule):
    """A thousand spoilt annotations: none stops the reader, none breaks the rule of layout."""
    call = {"name": "f", "arguments": {"a": 1}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    text = {"type": "text", "text": "<VIDEO_CONTEXT>", "conversation_timestamps": [[1, 2]]}
    image = {"type": "image_url", "image_url": {"url": "a.jpg", "image_wh": [64, 32]}}
    good = {
        "id": "one",
        "messages": [
            {"role": "system", "content": "Hi"},
            {"role": "user", "content": [shown(**INFO, span=[1, 2], fps=1)[0]["content"][0], text]},
            {"role": "assistant", "content": "", "tool_calls": [call], "loss": False},
            {"role": "tool", "content": [image, {"type": "text", "text": "<IMG_CONTEXT>"}]},
            {"role": "assistant", "content": "Yes", "thinking": "Hm"},
        ],
        "truths": [{"span": [1, 2]}],
        "tools": [tool],
    }
    assert sources.read(data_set(tmp_path, good)).faults == []
    rng = np.random.default_rng(0)
    lines = [spoil(good, rng) for _ in range(1000)]
    found = sources.read(data_set(tmp_path, *lines))
    assert len(found.samples) + len(found.faults) == 1000 and len(found.faults) > 500
    assert all(str(tmp_path) in fault.sentence for fault in found.faults)
    for sample in found.samples:
        with contextlib.suppress(MediaError):
            rule(sample)
