"""Parsing answers, scoring them, and the table of scores."""

import pytest

from ivx.errors import UserError
from ivx.evaluation import scoring, store
from ivx.evaluation.scoring import Prediction
from ivx.judging import answers, metrics


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("3.0 to 5.5 seconds", (3.0, 5.5)),
        ("The event happens in 3 - 5 seconds.", (3.0, 5.0)),
        ("from 01:10 to 01:20.5", (70.0, 80.5)),
        ("1:02:03-1:02:09", (3723.0, 3729.0)),
        ("<think>maybe 2 to 8</think>8.0 to 14.0", (8.0, 14.0)),
        ("1 to 2, no: 4 to 6", (4.0, 6.0)),
        ("<think>1 to 2, no: 4 to 6", None),
        ("30 to 20", None),
        ("tomorrow", None),
        ("", None),
    ],
)
def test_span_is_parsed(text, span):
    assert answers.span(text) == span


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(C)", "C"),
        ("The answer is D.", "D"),
        ("<think>A or B?</think>\nC", "C"),
        ("red(C)", "C"),
        ("A red circle (B)", "B"),
        ("B. A red circle", "B"),
        ("E", None),
        ("<think>A or B?", None),
        ("Because", None),
        ("", None),
    ],
)
def test_letter_is_parsed_as_standalone_option(text, letter):
    assert answers.letter(text, options=4) == letter


@pytest.mark.parametrize(
    ("a", "b", "iou"),
    [
        ((0, 4), (2, 6), 1 / 3),
        ((0, 1), (5, 6), 0.0),
        ((2, 6), (2, 6), 1.0),
        ((3, 3), (3, 3), 1.0),
        ((3, 3), (4, 4), 0.0),
        (None, (1, 2), 0.0),
    ],
)
def test_temporal_iou_equals_expected(a, b, iou):
    assert metrics.temporal_iou(a, b) == pytest.approx(iou)


def test_recall_includes_the_threshold():
    assert metrics.span_scores([0.3, 0.5, 0.7, 0.0]) == {
        "mIoU": pytest.approx(0.375),
        "R@0.3": 0.75,
        "R@0.5": 0.5,
        "R@0.7": 0.25,
    }


def test_interval_of_a_mean_stays_within_scores_and_one_value_tells_nothing():
    assert metrics.mean_interval([1.0]) == (0.0, 1.0)
    assert metrics.mean_interval([1.0, 1.0]) == (1.0, 1.0)
    low, high = metrics.mean_interval([0.0, 1.0, 1.0])
    assert 0 <= low < 2 / 3 < high == 1.0


def test_interval_equals_wilson_formula():
    """Values computed by hand for 8 of 10."""
    low, high = metrics.interval(0.8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))


def prediction(text: str, family="attribute", **truth) -> Prediction:
    return Prediction("x", family, "?", {"format": "open", **truth}, "v.mp4", text)


def test_score_of_each_format():
    colours = ["red", "blue"]
    assert scoring.score(prediction(" Red.", answer="red", values=colours)) == 1
    assert scoring.score(prediction("blue", answer="red", values=colours)) == 0
    assert scoring.score(prediction("0 to 2", answer="0 to 4", span=[0, 4])) == 0.5
    caption = "A red circle moves left."
    assert scoring.score(prediction("a blue circle moves left", answer=caption)) == 0.8
    choice = {"format": "choice", "answer": "B", "options": colours}
    assert scoring.score(Prediction("x", "order", "?", choice, "", "B")) == 1


def test_table_has_one_row_per_family_and_format():
    values = ["red", "green", "blue", "white"]
    rows = scoring.table(
        [
            prediction("red", answer="red", values=values),
            prediction("blue", answer="red", values=values),
            prediction("1 to 3", family="grounding", answer="1 to 3", span=[1, 3]),
        ]
    )
    assert [(row.family, row.metric, row.score) for row in rows] == [
        ("attribute", "accuracy", 0.5),
        ("grounding", "mIoU", 1.0),
    ]
    assert rows[0].chance == 0.25
    assert "R@0.7 1.000" in scoring.render(rows, rows)


@pytest.mark.parametrize("file", ("predictions.jsonl", "results.json"))
@pytest.mark.parametrize("text", ('{"a": 1}', "[]", "5", "{", "[" * 100_000))
def test_damaged_evaluation_is_named(file, text, tmp_path):
    folder = store.save(tmp_path, "held_out", [], [], [])
    assert store.load(folder) == ([], [], [])
    (folder / file).write_text(text)
    with pytest.raises(UserError, match=r"the evaluation .*held_out is damaged"):
        store.load(folder)
