"""The report page of a run: reads a workdir, fills the template, writes report.html."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from data_pipelines.media_error import MediaError
from ivx.evaluation import scoring, store
from ivx.evaluation.scoring import Prediction
from ivx.reporting import curves, frames, paths, template
from ivx.training import writers

FILE = "report.html"
# Right answers, and wrong answers, shown for each family and format.
_EACH = 1


@dataclasses.dataclass(frozen=True)
class Card:
    """One question on the page.

    Attributes:
      prediction: the question and its answer.
      points: score of the answer.
      picture: frames as a data: URL; empty if the video can no longer be read.
      file: name of the video or image.
    """

    prediction: Prediction
    points: float
    picture: str
    file: str


def write(workdir: pathlib.Path, facts: dict[str, str]) -> pathlib.Path:
    """Writes `workdir`/report.html from its metrics and evaluations.

    Args:
      workdir: workdir of a run.
      facts: key-value pairs for the top of the page.
    """
    rows = writers.read_metrics(workdir / writers.METRICS)
    return template.write(
        workdir / FILE,
        "report.html.jinja",
        name=workdir.resolve().name,
        facts=facts,
        curves=curves.draw(rows),
        evaluations=[
            _evaluation(folder) for folder in sorted((workdir / store.FOLDER).glob("[!.]*/"))
        ],
        config=_config(workdir),
    )


def _config(workdir: pathlib.Path) -> str:
    """The config of the run as JSON text, with relative paths."""

    def shown(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shown(inner) for key, inner in value.items()}
        return paths.relative(value, workdir) if isinstance(value, str) else value

    return json.dumps(shown(json.loads((workdir / "config.json").read_text())), indent=2)


def _evaluation(folder: pathlib.Path) -> dict:
    predictions, rows, baseline = store.load(folder)
    baseline_rows = {(row.family, row.format): row for row in baseline}
    return {
        "name": folder.name,
        "rows": [(row, baseline_rows.get((row.family, row.format))) for row in rows],
        "cards": _cards(predictions),
    }


def _cards(predictions: Sequence[Prediction]) -> list[Card]:
    """Right and wrong answers of every family and format, where there are any."""
    cards, counts = [], {}
    for prediction in predictions:
        points = scoring.score(prediction)
        key = (prediction.family, prediction.truth["format"], points >= 0.5)
        if counts.setdefault(key, 0) < _EACH:
            counts[key] += 1
            try:
                picture = frames.strip(prediction.video)
            except MediaError:
                picture = ""
            file = pathlib.PurePath(prediction.video).name
            cards.append(Card(prediction, points, picture, file))
    return sorted(
        cards,
        key=lambda card: (card.prediction.family, card.prediction.truth["format"], -card.points),
    )
