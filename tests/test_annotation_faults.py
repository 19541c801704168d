"""Faults of annotations: named by line and cause, and the rest is read."""

import contextlib
import json

import numpy as np
import pytest

from data_pipelines import annotation_error, sources
from data_pipelines.media_error import MediaError
from tests.annotations import SAID, WORDS, data_set, shown

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
