"""The page of a recipe: scores after each stage, and which aims were reached."""

import pathlib
from collections.abc import Sequence

import jinja2
from matplotlib import figure

from ivx.reporting import svg
from ivx.reporting.recipe import aims
from ivx.reporting.recipe.aims import Aim
from ivx.reporting.recipe.record import StageRecord

FILE = "report.html"


def write(
    workdir: pathlib.Path,
    stages: Sequence[StageRecord],
    teacher: StageRecord | None,
    results: Sequence[Aim],
) -> pathlib.Path:
    """Writes `workdir`/report.html."""
    models = [stage for stage in stages if stage.rows]
    compared = [*models, *([teacher] if teacher else [])]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ivx.reporting.recipe", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("page.html.jinja").render(
        name=workdir.resolve().name,
        stages=stages,
        compared=compared,
        aims=results,
        lines=[_line(key, compared) for key in aims.columns(compared)],
        pictures=_plots(models),
        reports=[stage.name for stage in stages if (workdir / stage.name / FILE).is_file()],
        trace=next((f"{s.name}/{s.facts['page']}" for s in stages if "page" in s.facts), ""),
        agent=next((stage.facts for stage in stages if stage.name == "agent"), None),
    )
    path = workdir / FILE
    path.write_text(page)
    return path


def _line(key: tuple[str, str, str], compared: Sequence[StageRecord]) -> dict:
    """A row of the table: one family in one format, over all stages."""
    split, family, kind = key
    rows = [
        row
        for stage in compared
        for row in stage.rows.get(split, ())
        if (row["family"], row["format"]) == (family, kind)
    ]
    return {
        "split": split,
        "family": family,
        "format": kind,
        "metric": rows[0]["metric"],
        "count": rows[0]["count"],
        "chance": rows[0]["chance"],
        "scores": [aims.score(stage, *key) for stage in compared],
    }


def _plots(models: Sequence[StageRecord]) -> list[str]:
    """Scores over the stages, one plot for each data set and format."""
    groups = {}
    for key in aims.columns(models):
        scores = [aims.score(stage, *key) for stage in models]
        groups.setdefault((key[0], key[2]), {})[key[1]] = scores
    names = [stage.name for stage in models]
    return [
        _plot(f"{split}, {kind}", names, lines)
        for (split, kind), lines in groups.items()
        if len(models) > 1
    ]


def _plot(title: str, names: list[str], lines: dict[str, list[float | None]]) -> str:
    canvas = figure.Figure(figsize=(5.6, 3.1), layout="constrained")
    axes = canvas.subplots()
    for family, scores in lines.items():
        points = [(x, score) for x, score in enumerate(scores) if score is not None]
        axes.plot(
            *zip(*points, strict=True), marker="o", markersize=3.5, linewidth=1.4, label=family
        )
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    # Outside the axes, where the legend hides no line.
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return svg.render(canvas)
