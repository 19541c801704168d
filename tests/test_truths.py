"""The table of truth formats: what is checked when a truth is read."""

import pytest

from data_pipelines import annotation_error, sources
from ivx.judging import rewards
from ivx.text import truths
from tests.annotations import data_set, video_messages

CHOICE = {"family": "x", "format": "choice", "answer": "B", "options": ["red", "green."]}
OPEN = {"family": "x", "format": "open", "answer": "red", "values": ["red", "green"]}
CALL = {"family": "x", "format": "call", "answer": '{"name": "zoom", "arguments": {"t": 3}}'}


@pytest.mark.parametrize("truth", [CHOICE, OPEN, CALL, {**OPEN, "values": []}])
def test_truth_of_each_format_is_kept(truth):
    assert truths.check(truth) == truth


@pytest.mark.parametrize("answer", ["B", "b", " b ", "green", "Green."])
def test_answer_of_a_choice_becomes_its_letter(answer):
    truth = truths.check(CHOICE | {"answer": answer})
    assert truth["answer"] == "B" and rewards.reward_of(truth)("(B)", truth) == 1.0


@pytest.mark.parametrize(
    ("truth", "complaint"),
    [
        ("red", "must be an object"),
        ({"answer": "B"}, "lacks family, format"),
        (CHOICE | {"format": "choices"}, "there are choice, open, call"),
        (CHOICE | {"format": ["choice"]}, "format .* must be text"),
        (CHOICE | {"family": 5}, "family '5' of a truth must be text"),
        (OPEN | {"answer": 3}, "answer '3' of a truth must be text"),
        (OPEN | {"answer": " "}, "must be text"),
        ({key: CHOICE[key] for key in ("family", "format", "answer")}, "needs options"),
        (CHOICE | {"options": "red"}, "options 'red' of a truth must be a list of texts"),
        (CHOICE | {"options": [1, 2]}, "must be a list of texts"),
        (CHOICE | {"options": []}, "needs options"),
        (CHOICE | {"answer": "C"}, "is none of 2 options; .* A to B"),
        (CHOICE | {"answer": "AB"}, "is none of 2 options"),
        (CHOICE | {"answer": "red", "options": ["red", "Red"]}, "could be A or B of 2 options"),
        (CHOICE | {"answer": "b", "options": ["b", "a"]}, "could be A or B of 2 options"),
        (CHOICE | {"options": ["x"] * 27}, "27 options; 1 to 26"),
        (CHOICE | {"values": ["red"]}, "has the keys values; allowed are"),
        (OPEN | {"value": ["red"]}, "has the keys value; allowed are"),
        (OPEN | {"answer": "blue"}, "none of its 2 values"),
        (OPEN | {"answer": ".", "values": []}, "has no words"),
        (OPEN | {"answer": "<think>Hm.</think>", "values": []}, "has no words"),
        (OPEN | {"values": [None]}, "must be a list of texts"),
        (CALL | {"answer": "zoom"}, "must be a tool call as JSON"),
        (CALL | {"answer": "[" * 10_000}, "must be a tool call as JSON"),
        (CALL | {"answer": '{"name": "zoom"}'}, "must be a tool call as JSON"),
        (CALL | {"answer": '{"name": "zoom", "arguments": {"t": NaN}}'}, "must be a tool call"),
    ],
)
def test_truth_that_nothing_can_be_scored_against_is_refused(truth, complaint):
    with pytest.raises(truths.TruthError, match=complaint):
        truths.check(truth)


def test_faulty_truth_is_a_fault_of_its_line(tmp_path):
    good = {"messages": video_messages(), "truths": [CHOICE | {"answer": "green"}]}
    lines = [
        good | {"id": "words"},
        good | {"id": "bad", "truths": [CHOICE | {"answer": "blue"}]},
        good | {"id": "two", "truths": [CHOICE, OPEN]},
        good | {"id": "spans", "truths": [OPEN | {"spans": [[1, "x"]]}]},
        good | {"id": "role", "messages": [good["messages"][0] | {"role": "human"}]},
    ]
    result = sources.read(data_set(tmp_path, *lines))
    assert [sample.truths[0]["answer"] for sample in result.samples] == ["B"]
    assert [fault.where[-2:] for fault in result.faults] == [":2", ":3", ":4", ":5"]
    assert result.faults[1].cause == annotation_error.VALUE
    assert "2 truths for 1 questions" in result.faults[1].sentence
    # Not that there are too few questions for the truths.
    assert "the role 'human' is not one of system, user" in result.faults[3].sentence
