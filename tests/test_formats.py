"""Annotation formats of other projects, and kinds of annotation files."""

import dataclasses
import json
import pathlib

import pytest
from array_record.python import array_record_module

from data_pipelines import annotation_error, formats, sources
from data_pipelines.sources.entries import entries
from ivx.evaluation import scoring, text_only
from ivx.judging import answers, rewards
from tests.annotations import TEXT_RECORD, data_set


def read(folder, name: str, text, form: str, **changes) -> sources.ReadResult:
    """Reads a file of this format."""
    file = folder / name
    file.write_text(text if isinstance(text, str) else json.dumps(text))
    member = sources.DataSet("x", (file,), folder, 1.0, form)
    return sources.read(dataclasses.replace(member, **changes))


def only_sample(result: sources.ReadResult) -> sources.Sample:
    assert result.faults == []
    [sample] = result.samples
    return sample


def question_of(sample: sources.Sample) -> str:
    [(text, _)] = text_only.questions(sample)
    return text


GROUNDED = [
    ("charades", "sta.txt", "3MSZA 24.3 30.4##person turn a light on.\n", "3MSZA.mp4"),
    (
        "charades",
        "time_r1.json",
        {
            "3MSZA": {
                "duration": 30.0,
                "timestamps": [[24.3, 30.4]],
                "sentences": ["person turn a light on."],
            }
        },
        "3MSZA.mp4",
    ),
    (
        "timelens",
        "bench.json",
        {"v1": {"duration": 30, "queries": ["person turn a light on"], "spans": [[24.3, 30.4]]}},
        "v1.mp4",
    ),
    (
        "timelens",
        "100k.jsonl",
        {
            "source": "cosmo_cap",
            "video_path": "cosmo/v1.webm",
            "duration": 30.0,
            "events": [{"query": "person turn a light on", "span": [[24.3, 30.4], [1, 2]]}],
        },
        "cosmo/v1.webm",
    ),
    (
        "qvhighlights",
        "train.jsonl",
        {
            "qid": 9769,
            "query": "person turn a light on",
            "duration": 30,
            "vid": "j7r_210.0_360.0",
            "relevant_windows": [[24.3, 30.4], [2, 4]],
            "relevant_clip_ids": [36],
            "saliency_scores": [[4, 1, 1]],
        },
        "j7r_210.0_360.0.mp4",
    ),
]


@pytest.mark.parametrize(("form", "name", "text", "video"), GROUNDED)
def test_sentence_with_span_becomes_a_grounding_question(tmp_path, form, name, text, video):
    """The training answer gets the full reward; a span is cut to the end of the video."""
    sample = only_sample(read(tmp_path, name, text, form))
    assert sample.videos[0].path == str(tmp_path / video)
    assert "'person turn a light on'" in question_of(sample)
    [truth] = sample.truths
    start, end = truth["span"]
    assert start == 24.3 and end == (30.4 if name == "sta.txt" else 30.0)
    answer = sample.messages[1]["content"]
    assert answers.span(answer) == (start, end)
    assert rewards.reward_of(truth)(answer, truth) == 1.0
    assert rewards.reward_of(truth)("from 1 to 2 seconds", truth) == 0.0
    prediction = scoring.Prediction(sample.id, truth["family"], "", truth, "", answer)
    assert scoring.table([prediction])[0].metric == "mIoU"


@pytest.mark.parametrize("name", ["v2.mp4", "v2.MP4", "v2.webm"])
@pytest.mark.parametrize(
    ("form", "entry", "fields"),
    [
        ("timelens", {"duration": 9, "queries": ["x"], "spans": [[1, 2]]}, {}),
        ("charades", {"duration": 9, "sentences": ["x"], "timestamps": [[1, 2]]}, {}),
        ("qvhighlights", {"qid": 1, "query": "x", "duration": 9, "relevant_windows": [[1, 2]]}, {}),
        ("internvideo3", {"q": "x", "a": "y"}, {"video": "vid", "question": "q", "answer": "a"}),
    ],
)
def test_name_with_a_suffix_does_not_get_another(tmp_path, form, entry, fields, name):
    result = read(tmp_path, "a.json", [{"vid": name, **entry}], form, fields=fields)
    assert only_sample(result).videos[0].path == str(tmp_path / name)


def test_charades_line_may_name_the_file(tmp_path):
    sample = only_sample(read(tmp_path, "a.txt", "v2.mp4 1.0 2.0##x\n", "charades"))
    assert sample.videos[0].path == str(tmp_path / "v2.mp4")


@pytest.mark.parametrize(
    ("form", "entry", "fields"),
    [
        (
            "timelens",
            {"vid": "v", "duration": 9, "queries": list("xyz"), "spans": [[1, 2], [3, 3], [4, 5]]},
            {},
        ),
        (
            "timelens",
            {
                "video_path": "v.mp4",
                "duration": 9,
                "events": [
                    {"query": "x", "span": [[1, 2]]},
                    {"query": "y", "span": [3, 3]},
                    {"query": "z", "span": [4, 5]},
                ],
            },
            {},
        ),
        (
            "charades",
            {
                "vid": "v",
                "duration": 9,
                "sentences": list("xyz"),
                "timestamps": [[1, 2], [3, 3], [4, 5]],
            },
            {},
        ),
        (
            "internvideo3",
            {"v": "v", "qa": [{"q": "x", "a": "1"}, {"q": "y"}, {"q": "z", "a": "3"}]},
            {"video": "v", "qa": "qa", "question": "q", "answer": "a"},
        ),
    ],
)
def test_faulty_question_costs_no_other_question_of_its_entry(tmp_path, form, entry, fields):
    result = read(tmp_path, "a.jsonl", entry, form, fields=fields)
    assert [sample.id for sample in result.samples] == [
        f"{result.samples[0].id[:-1]}0",
        f"{result.samples[0].id[:-1]}2",
    ]
    [fault] = result.faults
    assert fault.where.endswith("a.jsonl:1") and ":1, question 2: " in fault.sentence


@pytest.mark.parametrize("query", [" ", 5, None, {"a": 1}, ["x"]])
def test_query_that_is_no_text_is_a_fault(tmp_path, query):
    entry = {"vid": "v", "duration": 9, "queries": ["x", query], "spans": [[1, 2], [3, 4]]}
    result = read(tmp_path, "a.jsonl", entry, "timelens")
    assert len(result.samples) == (2 if query == 5 else 1)


def test_choice_with_more_than_ten_options_lists_all(tmp_path):
    options = [f"{letter}. item {letter}" for letter in "ABCDEFGHIJKL"]
    line = R1 | {"options": options, "solution": "<answer>l</answer>"}
    sample = only_sample(read(tmp_path, "r1.jsonl", line, "video_r1"))
    assert "L. item L" in question_of(sample) and sample.truths[0]["answer"] == "L"


R1 = {
    "problem_id": 2,
    "problem": "What is it?",
    "data_type": "video",
    "problem_type": "multiple choice",
    "options": ["A. A cat", "B. A dog"],
    "solution": "<answer>B</answer>",
    "path": "./LLaVA/b.mp4",
}


def test_video_r1_choice_becomes_a_choice_question(tmp_path):
    sample = only_sample(read(tmp_path, "r1.json", [R1], "video_r1"))
    assert question_of(sample).startswith("What is it?\nA. A cat\nB. A dog\n")
    [truth] = sample.truths
    assert truth["options"] == ["A cat", "A dog"] and truth["answer"] == "B"
    assert rewards.reward_of(truth)("<think>Barks.</think>(B)", truth) == 1.0
    assert sample.videos[0].path.endswith("/LLaVA/b.mp4")


@pytest.mark.parametrize("kind", ["numerical", "OCR", "free-form", "regression"])
def test_video_r1_image_question_is_judged_by_text(tmp_path, kind):
    words = {"problem_type": kind, "data_type": "image", "path": "a.jpg", "options": []}
    line = R1 | words | {"solution": "<answer>42</answer>"}
    sample = only_sample(read(tmp_path, "r1.jsonl", line, "video_r1"))
    assert sample.videos == () and sample.images[0].path.endswith("a.jpg")
    [truth] = sample.truths
    assert truth["family"] == kind and rewards.reward_of(truth)("42.", truth) == 1.0
    assert rewards.reward_of(truth)("43", truth) == 0.0


def test_internvideo3_row_is_read_by_named_columns(tmp_path):
    fields = {"video": "vid", "question": "q", "answer": "a"}
    line = {"vid": "abc", "q": "What?", "a": "A dot.", "extra": 1}
    sample = only_sample(read(tmp_path, "rows.jsonl", line, "internvideo3", fields=fields))
    assert sample.videos[0].path.endswith("abc.mp4") and sample.messages[1]["content"] == "A dot."


@pytest.mark.parametrize(
    ("form", "name", "text", "cause", "complaint"),
    [
        ("charades", "a.txt", "no line of it", annotation_error.VALUE, "VIDEO start end##sentence"),
        ("charades", "a.txt", "v 9.0 3.0##x", annotation_error.SPAN, "is empty or negative"),
        (
            "charades",
            "a.json",
            {"v": {"duration": 5, "timestamps": [[7, 9]], "sentences": ["x"]}},
            annotation_error.SPAN,
            "outside a video of 5 seconds",
        ),
        (
            "charades",
            "a.json",
            {"v": {"duration": 5, "timestamps": [], "sentences": ["x"]}},
            annotation_error.VALUE,
            "1 sentences with 0 timestamps",
        ),
        ("charades", "a.json", {"v": {}}, annotation_error.MISSING, "no duration"),
        ("charades", "a.json", ["v"], annotation_error.VALUE, "expected VIDEO"),
        ("timelens", "a.json", {"v": {"duration": "x"}}, annotation_error.TYPE, "not a number"),
        (
            "timelens",
            "a.json",
            {"v": {"duration": 5, "queries": ["x"], "spans": ["1-2"]}},
            annotation_error.TYPE,
            "'1-2', not a list",
        ),
        (
            "qvhighlights",
            "a.jsonl",
            {"qid": 1, "query": "x", "vid": "v", "duration": 9},
            annotation_error.MISSING,
            "no relevant_windows",
        ),
        (
            "video_r1",
            "a.jsonl",
            R1 | {"solution": "<answer>C</answer>"},
            annotation_error.VALUE,
            "is none of 2 options",
        ),
        ("video_r1", "a.jsonl", R1 | {"data_type": "sound"}, annotation_error.VALUE, "'sound'"),
        ("internvideo3", "a.jsonl", {"vid": "v"}, annotation_error.MISSING, "fields must name"),
    ],
)
def test_malformed_entry_is_a_fault(tmp_path, form, name, text, cause, complaint):
    result = read(tmp_path, name, text, form)
    [fault] = result.faults
    assert result.samples == [] and fault.cause == cause
    assert fault.where.startswith(str(tmp_path / name) + ":")
    with pytest.raises(sources.AnnotationError, match=complaint):
        raise sources.AnnotationError(fault.sentence)


@pytest.mark.parametrize("form", sorted(formats.FORMATS))
@pytest.mark.parametrize("value", [None, 5, [], {}, "", {"vid": None}, {"events": 5}])
def test_formats_report_arbitrary_values_as_faults(tmp_path, form, value):
    result = read(tmp_path, "a.json", [value], form)
    assert result.samples == [] and len(result.faults) == 1


# Kinds of files


def test_array_records_are_read(tmp_path):
    file = tmp_path / "a.array_record"
    writer = array_record_module.ArrayRecordWriter(str(file), "group_size:1")
    for line in (json.dumps({"id": "one", **TEXT_RECORD}).encode(), b"{", b"\xff"):
        writer.write(line)
    writer.close()
    result = sources.read(data_set(tmp_path, annotations=(file,)))
    assert [sample.id for sample in result.samples] == ["one"]
    assert [fault.cause for fault in result.faults] == [
        annotation_error.NOT_JSON,
        annotation_error.NOT_TEXT,
    ]
    assert result.faults[0].where.endswith("a.array_record:2")
    file.write_bytes(b"no such file")
    with pytest.raises(sources.AnnotationError, match="not a readable ArrayRecord file"):
        list(entries(data_set(tmp_path, annotations=(file,))))


def test_parquet_rows_are_read_nested_or_as_json(tmp_path):
    """Nulls, which a table needs where the keys of rows differ, count as missing keys."""
    pyarrow = pytest.importorskip("pyarrow", reason="pip install 'ivx[parquet]'")
    from pyarrow import parquet

    file = tmp_path / "a.parquet"
    url = {"type": "video_url", "video_url": {"url": "a.mp4"}}
    text = {"type": "text", "text": "<VIDEO_CONTEXT>What?"}
    nested = [
        {"role": "user", "content": [url, text]},
        {"role": "assistant", "content": [{"type": "text", "text": "A dot."}], "loss": True},
    ]
    parquet.write_table(pyarrow.Table.from_pylist([{"id": "one", "messages": nested}]), file)
    sample = only_sample(sources.read(data_set(tmp_path, annotations=(file,))))
    assert sample.videos[0].path.endswith("a.mp4")
    rows = [
        {"id": "one", "messages": json.dumps(nested), "truths": None},
        {"id": "two", "messages": "[", "truths": "[]"},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    result = sources.read(data_set(tmp_path, annotations=(file,)))
    assert [sample.id for sample in result.samples] == ["one"]
    [fault] = result.faults
    assert fault.where.endswith("a.parquet:2") and fault.cause == annotation_error.NOT_JSON
    file.write_bytes(b"no such file")
    with pytest.raises(sources.AnnotationError, match="not a readable Parquet file"):
        list(entries(data_set(tmp_path, annotations=(file,))))


@pytest.mark.parametrize(
    ("changes", "extra"),
    [({"annotations": (pathlib.Path("a.parquet"),)}, "parquet"), ({"tfds": "x"}, "tfds")],
)
def test_missing_package_error_names_the_extra(tmp_path, monkeypatch, changes, extra):
    for name in ("pyarrow", "tensorflow_datasets"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(sources.AnnotationError, match=rf"pip install 'ivx\[{extra}\]'"):
        list(entries(data_set(tmp_path, **{"split": "train", **changes})))


def test_unknown_file_kind_is_rejected(tmp_path):
    member = data_set(tmp_path, annotations=(tmp_path / "a.csv",))
    with pytest.raises(sources.AnnotationError, match=r"expected .jsonl, .parquet"):
        list(entries(member))
