"""From predictions to a table of scores: one row per family and format.

The metric of a row depends on its family: mIoU for grounding, the fraction of correct slots for
captions, the fraction of correct arguments for tool calls, and accuracy (exact match of the words
or the letter) for the rest. Chance is the score of guessing without seeing the video.
"""

import dataclasses
import json
from collections.abc import Sequence

from ivx.judging import answers, metrics
from ivx.text import tool_calls


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One question, its truth and the model's answer.

    Attributes:
      sample_id: in the data set.
      family: of the question.
      question: its text, without the video.
      truth: format, answer and, where they apply, options, values and span.
      video: path of the video, or of an image if there is no video.
      text: the model's answer.
    """

    sample_id: str
    family: str
    question: str
    truth: dict
    video: str
    text: str


@dataclasses.dataclass(frozen=True)
class Row:
    """Scores of one family and format; `low` and `high` are the bounds of the 95% interval."""

    family: str
    format: str
    count: int
    metric: str
    score: float
    low: float
    high: float
    chance: float
    details: dict[str, float]


def score(prediction: Prediction) -> float:
    """Score of one prediction, in [0, 1]."""
    truth = prediction.truth
    if truth["format"] == "choice":
        return float(answers.letter(prediction.text, len(truth["options"])) == truth["answer"])
    if truth["format"] == "call":
        expected = tool_calls.Call(**json.loads(truth["answer"]))
        return metrics.call_share(answers.call(prediction.text), expected)
    if "span" in truth:
        return metrics.temporal_iou(answers.span(prediction.text), tuple(truth["span"]))
    if truth.get("values"):
        return float(answers.words(prediction.text) == answers.words(truth["answer"]))
    return _slots(prediction.text, truth["answer"])


def table(predictions: Sequence[Prediction]) -> list[Row]:
    """One row per (family, format), sorted by name."""
    groups = {}
    for prediction in predictions:
        groups.setdefault((prediction.family, prediction.truth["format"]), []).append(prediction)
    return [_row(family, kind, group) for (family, kind), group in sorted(groups.items())]


def render(
    rows: Sequence[Row], baseline: Sequence[Row] = (), baseline_name: str = "text only"
) -> str:
    """The table as text, with a column for the baseline if given."""
    baselines = {(row.family, row.format): row for row in baseline}
    head = (
        f"{'family':<16}{'format':<8}{'n':>5}  {'metric':<9}{'score':>6}"
        f"  {'95% interval':<14}{'chance':>6}"
    )
    lines = [head + (f"  {baseline_name} (95% interval)" if baselines else "")]
    for row in rows:
        line = (
            f"{row.family:<16}{row.format:<8}{row.count:>5}  {row.metric:<9}{row.score:>6.3f}"
            f"  {row.low:.3f} - {row.high:.3f} {row.chance:>6.3f}"
        )
        other = baselines.get((row.family, row.format))
        if other:
            line += f"  {other.score:.3f} ({other.low:.3f} - {other.high:.3f})"
        if row.details:
            line += "  " + ", ".join(f"{name} {value:.3f}" for name, value in row.details.items())
        lines.append(line)
    return "\n".join(lines)


def _row(family: str, kind: str, group: Sequence[Prediction]) -> Row:
    points = [score(prediction) for prediction in group]
    mean = sum(points) / len(points)
    truth = group[0].truth
    if kind == "choice" or truth.get("values"):
        low, high = metrics.interval(mean, len(points))
        return Row(family, kind, len(group), "accuracy", mean, low, high, _chance(group), {})
    low, high = metrics.mean_interval(points)
    if kind == "call":
        return Row(family, kind, len(group), "arguments", mean, low, high, _chance(group), {})
    if "span" in truth:
        details = metrics.span_scores(points)
        return Row(family, kind, len(group), "mIoU", mean, low, high, _chance(group), details)
    hits = [answers.words(p.text) == answers.words(p.truth["answer"]) for p in group]
    exact = sum(hits) / len(group)
    return Row(family, kind, len(group), "slots", mean, low, high, _chance(group), {"exact": exact})


def _chance(group: Sequence[Prediction]) -> float:
    """The score of a random option, or of the best constant answer."""
    truth = group[0].truth
    if truth["format"] == "choice":
        return sum(1 / len(p.truth["options"]) for p in group) / len(group)
    if truth.get("values"):
        return sum(1 / len(p.truth["values"]) for p in group) / len(group)
    candidates = sorted({p.truth["answer"] for p in group})
    return max(
        sum(score(dataclasses.replace(p, text=candidate)) for p in group) / len(group)
        for candidate in candidates
    )


def _slots(text: str, expected: str) -> float:
    """Fraction of the expected words that are at their positions."""
    actual, target = answers.words(text).split(), answers.words(expected).split()
    matches = sum(a == b for a, b in zip(actual, target, strict=False))
    return matches / max(len(target), len(actual))
