"""Questions with their frames, their truths, and the answer of every stage."""

import dataclasses
import pathlib
from collections.abc import Sequence

from data_pipelines.media_error import MediaError
from ivx.evaluation import scoring, store
from ivx.evaluation.scoring import Prediction
from ivx.reporting import frames
from ivx.reporting.recipe.record import StageRecord

# Examples of each data set.
_EACH = 3


@dataclasses.dataclass(frozen=True)
class Answer:
    """The answer of one stage, and its score in [0, 1]."""

    stage: str
    text: str
    points: float


@dataclasses.dataclass(frozen=True)
class Example:
    """One question.

    Attributes:
      prediction: the question and its truth.
      split: its data set.
      picture: frames as a data: URL; empty if the video can no longer be read.
      answers: of the stages, in order.
    """

    prediction: Prediction
    split: str
    picture: str
    answers: tuple[Answer, ...]


def choose(workdir: pathlib.Path, stages: Sequence[StageRecord]) -> list[Example]:
    """Some questions of each data set, one of a family, those first whose scores change most.

    Args:
      workdir: folder of the recipe.
      stages: those that were scored.
    """
    splits = dict.fromkeys(split for stage in stages for split in stage.rows)
    return [example for split in splits for example in _of_split(workdir, stages, split)]


def _of_split(workdir: pathlib.Path, stages: Sequence[StageRecord], split: str) -> list[Example]:
    asked: dict[str, dict[str, Prediction]] = {}
    for stage in stages:
        folder = workdir / stage.name / store.FOLDER / split
        if folder.is_dir():
            for prediction in store.load(folder)[0]:
                asked.setdefault(prediction.sample_id, {})[stage.name] = prediction
    chosen: dict[str, dict[str, Prediction]] = {}
    for predictions in sorted(asked.values(), key=_change, reverse=True):
        chosen.setdefault(next(iter(predictions.values())).family, predictions)
    return [_example(split, predictions) for predictions in list(chosen.values())[:_EACH]]


def _change(predictions: dict[str, Prediction]) -> float:
    points = [scoring.score(prediction) for prediction in predictions.values()]
    return max(points) - min(points)


def _example(split: str, predictions: dict[str, Prediction]) -> Example:
    answers = tuple(
        Answer(stage, prediction.text, scoring.score(prediction))
        for stage, prediction in predictions.items()
    )
    first = next(iter(predictions.values()))
    try:
        picture = frames.strip(first.video)
    except MediaError:
        picture = ""
    return Example(first, split, picture, answers)
