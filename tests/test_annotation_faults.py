"""Unusable annotations become faults with a line and a cause; all others are read."""

import contextlib
import datetime
import json

import numpy as np
import pytest
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from data_pipelines import annotation_error, sources
from data_pipelines.media_error import MediaError
from tests.annotations import ANSWER, TEXT_RECORD, data_set, video_messages

TRUTH = {"family": "when", "format": "open", "answer": "1 to 2", "values": []}
DEEP = json.loads("[" * 300 + "]" * 300)
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
        ({**TEXT_RECORD, "surprise": 1}, annotation_error.UNKNOWN),
        ({"messages": [{**ANSWER, "surprise": 1}]}, annotation_error.UNKNOWN),
        ({**TEXT_RECORD, "id": [1]}, annotation_error.TYPE),
        ({"messages": [{"role": "user", "content": 5}]}, annotation_error.TYPE),
        ({"messages": [{"role": "boss", "content": "Hi"}]}, annotation_error.VALUE),
        ({"messages": video_messages("no place for it")}, annotation_error.TEMPLATE),
        ({"messages": video_messages(surprise=1)}, annotation_error.UNKNOWN),
        ({"messages": video_messages(url=None)}, annotation_error.TYPE),
        ({"messages": video_messages(url="../a.mp4")}, annotation_error.ADDRESS),
        ({"messages": video_messages(url="gs://other/a.mp4")}, annotation_error.ADDRESS),
        ({"messages": video_messages(processed_fps=1.0)}, annotation_error.MISSING),
        ({"messages": video_messages(**INFO | {"image_wh": [0, 0]})}, annotation_error.TYPE),
        ({"messages": video_messages(**INFO, frames_timestamp=[1.0])}, annotation_error.VALUE),
        ({"messages": video_messages(**INFO, span=[12, 13])}, annotation_error.SPAN),
        (
            {"messages": video_messages(**INFO), "truths": [TRUTH | {"span": [8.0, 14.0]}]},
            annotation_error.SPAN,
        ),
        (
            {"messages": video_messages(), "truths": [TRUTH | {"span": [8.0, 4.0]}]},
            annotation_error.SPAN,
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            annotation_error.MISSING,
        ),
        ({"id": "one", **TEXT_RECORD}, annotation_error.REPEATED),
        (TEXT_RECORD | {"id": "a\0"}, annotation_error.VALUE),
        (TEXT_RECORD | {"id": "\ud800"}, annotation_error.NOT_TEXT),
        ({"messages": [{"role": "user", "content": "half \udc80"}]}, annotation_error.NOT_TEXT),
        ({"messages": [ANSWER | {"meta": {"\ud800": 1}}]}, annotation_error.NOT_TEXT),
        ({"messages": [ANSWER | {"meta": DEEP}]}, annotation_error.VALUE),
        (b'{"id": ' + b"9" * 5000 + b"}", annotation_error.NOT_JSON),
        (b'{"id": 7, "messages": [], "messages": []}', annotation_error.VALUE),
        (b'{"id": 7, "messages": [{"role": "user", "role": "user"}]}', annotation_error.VALUE),
        (b" " * (2**26 + 5), annotation_error.VALUE),
        ({"messages": video_messages(url="a\0.mp4")}, annotation_error.VALUE),
        ({"messages": video_messages(span=[0, 1e308])}, annotation_error.VALUE),
        ({"messages": video_messages(fps=1e308)}, annotation_error.TYPE),
        ({"messages": video_messages(fps=1e-310)}, annotation_error.TYPE),
        ({"messages": video_messages(origin_fps="24")}, annotation_error.TYPE),
        ({"messages": video_messages(**INFO | {"origin_fps": 1e-310})}, annotation_error.TYPE),
        ({"messages": video_messages(**INFO | {"image_wh": [1e308, 1]})}, annotation_error.TYPE),
        ({"messages": video_messages(origin_video_length=10**400)}, annotation_error.TYPE),
        ({"messages": video_messages(origin_video_length=True)}, annotation_error.TYPE),
        ({"messages": video_messages(frames_timestamp=[1e308])}, annotation_error.TYPE),
        ({**TEXT_RECORD, "overrides": {"fps": 1e300}}, annotation_error.VALUE),
    ],
)
def test_fault_has_line_and_cause_and_other_lines_are_read(tmp_path, line, cause):
    member = data_set(tmp_path, {"id": "one", **TEXT_RECORD}, line, {"id": "two", **TEXT_RECORD})
    result = sources.read(member)
    assert [sample.id for sample in result.samples] == ["one", "two"]
    [fault] = result.faults
    assert fault.cause == cause and fault.where.endswith("x.jsonl:2")
    assert fault.sentence.startswith(fault.where) and len(fault.sentence) < 600
    with pytest.raises(sources.AnnotationError, match=r"x\.jsonl:2"):
        sources.read_samples(member)


def test_table_row_may_hold_values_that_json_lacks(tmp_path):
    """Ignored columns of Parquet files, such as dates, are not written as JSON."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    message = ANSWER | {"meta": {"date": datetime.date(2026, 1, 1)}}
    table = pyarrow.Table.from_pylist([{"id": "one", "messages": [message]}])
    parquet.write_table(table, tmp_path / "a.parquet")
    result = sources.read(data_set(tmp_path, annotations=(tmp_path / "a.parquet",)))
    assert [sample.id for sample in result.samples] == ["one"] and not result.faults


def test_table_row_that_is_not_utf8_is_a_fault(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [json.dumps(TEXT_RECORD["messages"]).encode(), b"\xff"]
    messages = pyarrow.array([rows[0], rows[1], rows[0]], pyarrow.binary()).view(pyarrow.string())
    table = pyarrow.table({"id": ["one", "bad", "two"], "messages": messages})
    parquet.write_table(table, tmp_path / "a.parquet")
    result = sources.read(data_set(tmp_path, annotations=(tmp_path / "a.parquet",)))
    assert [sample.id for sample in result.samples] == ["one", "two"]
    [fault] = result.faults
    assert fault.cause == annotation_error.NOT_TEXT and fault.where.endswith("a.parquet:2")


def test_json_key_with_half_a_character_is_a_fault(tmp_path):
    (tmp_path / "a.json").write_text('{"\\ud800": {"duration": 9}, "b": {"duration": 9}}')
    member = data_set(tmp_path, annotations=(tmp_path / "a.json",), format="timelens")
    faults = sources.read(member).faults
    assert [fault.cause for fault in faults] == [
        annotation_error.NOT_TEXT,
        annotation_error.MISSING,
    ]
    assert all(fault.sentence.isprintable() for fault in faults)


def test_lines_of_a_file_that_is_read_over_a_network_are_separated(monkeypatch, tmp_path):
    """Its `readline`, unlike that of a local file, takes no size."""
    content = json.dumps(TEXT_RECORD).encode() + b"\n" + b"x" * 2**26 + b"\n{}"

    class RemoteFile(AbstractBufferedFile):
        def _fetch_range(self, start: int, end: int) -> bytes:
            return content[start:end]

    member = data_set(tmp_path, TEXT_RECORD)
    remote = RemoteFile(AbstractFileSystem(), "x", size=len(content))
    monkeypatch.setattr(type(member.annotations[0]), "open", lambda *_: remote)
    result = sources.read(member)
    assert len(result.samples) == 1
    assert [fault.where.rpartition(":")[2] for fault in result.faults] == ["2", "3"]


def test_repeated_key_of_a_document_is_a_fault(tmp_path):
    """Otherwise the first of two videos with the same name would be lost without a word."""
    entry = '{"duration": 9, "timestamps": [[1, 2]], "sentences": ["He %s."]}'
    text = ", ".join(f'"{key}": {entry % verb}' for key, verb in ["aa", "bb", "ac"])
    (tmp_path / "a.json").write_text("{" + text + "}")
    result = sources.read(data_set(tmp_path, annotations=(tmp_path / "a.json",), format="charades"))
    assert len(result.samples) == 2
    [fault] = result.faults
    assert fault.where.endswith("a.json:a") and "occurs more than once" in fault.sentence


def test_incomplete_last_line_has_its_own_cause(tmp_path):
    member = data_set(tmp_path, TEXT_RECORD, TEXT_RECORD | {"id": 2})
    [file] = member.annotations
    file.write_bytes(file.read_bytes()[:-9])
    [fault] = sources.read(member).faults
    assert fault.cause == annotation_error.CUT and "x.jsonl:2: incomplete line" in fault.sentence


def test_repeated_ids_are_renamed_in_training_and_rejected_in_evaluation(tmp_path):
    """Training keeps both samples under different ids; evaluation rejects the data set."""
    other = {"messages": [{"role": "user", "content": "Bye"}, ANSWER], "id": "one"}
    member = data_set(tmp_path, {"id": "one", **TEXT_RECORD}, other)
    first, second = sources.read(member).samples
    assert first.id == "one" and second.id.startswith("one (") and second.id.endswith("jsonl:2)")
    with pytest.raises(
        sources.AnnotationError, match=r"repeats the id one of .*x.jsonl:1; give every"
    ):
        sources.read_samples(member)


def test_unicode_line_separators_do_not_split_a_line(tmp_path):
    text = {"role": "user", "content": "a\u2028b\x85c"}
    line = json.dumps({"messages": [text, ANSWER]}, ensure_ascii=False).encode()
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


def corrupt(value, rng) -> object:
    """A copy in which one part has another type, is missing, or is superfluous."""
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
        copy[key] = corrupt(value[key], rng)
    return copy


def test_corrupted_annotation_is_a_sample_or_a_fault(tmp_path, rule):
    """None of 1000 corrupted annotations stops the reader or breaks the layout rule."""
    call = {"name": "f", "arguments": {"a": 1}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    text = {"type": "text", "text": "<VIDEO_CONTEXT>", "conversation_timestamps": [[1, 2]]}
    image = {"type": "image_url", "image_url": {"url": "a.jpg", "image_wh": [64, 32]}}
    good = {
        "id": "one",
        "messages": [
            {"role": "system", "content": "Hi"},
            {
                "role": "user",
                "content": [video_messages(**INFO, span=[1, 2], fps=1)[0]["content"][0], text],
            },
            {"role": "assistant", "content": "", "tool_calls": [call], "loss": False},
            {"role": "tool", "content": [image, {"type": "text", "text": "<IMG_CONTEXT>"}]},
            {"role": "assistant", "content": "Yes", "thinking": "Hm"},
        ],
        "truths": [TRUTH | {"span": [1, 2]}],
        "tools": [tool],
    }
    assert sources.read(data_set(tmp_path, good)).faults == []
    rng = np.random.default_rng(0)
    lines = [corrupt(good, rng) for _ in range(1000)]
    result = sources.read(data_set(tmp_path, *lines))
    assert len(result.samples) + len(result.faults) == 1000 and len(result.faults) > 500
    assert all(str(tmp_path) in fault.sentence for fault in result.faults)
    for sample in result.samples:
        with contextlib.suppress(MediaError):
            rule.lay_out(sample)
