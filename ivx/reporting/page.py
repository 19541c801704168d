"""The report page of a run: reads a workdir, fills the template, writes report.html."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import jinja2

from data_pipelines.media_error import MediaError
from ivx.evaluation import scoring, store
from ivx.evaluation.scoring import Prediction
from ivx.reporting import curves, frames
from ivx.training import writers

FILE = "report.html"
# Right answers, and wrong answers, shown for each family and format.
_EACH = 1


@dataclasses.dataclass(frozen=True)
class Card:
    """One question on the page."""

    prediction: Prediction
    points: float
    picture: str


def write(workdir: pathlib.Path, facts: dict[str, str]) -> pathlib.Path:
    """Writes `workdir`/report.html from its metrics and evaluations.

    Args:
      workdir: workdir of a run.
      facts: key-value pairs for the top of the page.
    """
    metrics = workdir / writers.METRICS
    rows = writers.read_metrics(metrics) if metrics.exists() else []
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ivx.reporting", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("report.html.jinja").render(
        name=workdir.resolve().name,
        facts=facts,
        curves=curves.draw(rows),
        evaluations=[
            _evaluation(folder) for folder in sorted((workdir / store.FOLDER).glob("[!.]*/"))
        ],
        config=json.dumps(json.loads((workdir / "config.json").read_text()), indent=2),
    )
    path = workdir / FILE
    path.write_text(page)
    return path


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
                cards.append(Card(prediction, points, frames.strip(prediction.video)))
            except MediaError:
                cards.append(Card(prediction, points, ""))
    return sorted(
        cards,
        key=lambda card: (card.prediction.family, card.prediction.truth["format"], -card.points),
    )
