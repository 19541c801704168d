"""The page of a recipe: scores after each stage, and which aims were reached."""

import pathlib
from collections.abc import Sequence

from matplotlib import figure

from ivx.reporting import svg, template
from ivx.reporting.recipe import aims, examples
from ivx.reporting.recipe.aims import Aim
from ivx.reporting.recipe.purpose import PURPOSE
from ivx.reporting.recipe.record import StageRecord

FILE = "report.html"
FEW_STEPS = (
    "few steps were run: this shows that every stage works, and says nothing about what a model can"
    " learn; scores and curves are noise, and no aims are set"
)


def write(
    workdir: pathlib.Path,
    stages: Sequence[StageRecord],
    teacher: StageRecord | None,
    results: Sequence[Aim],
    few_steps: bool = False,
) -> pathlib.Path:
    """Writes `workdir`/report.html.

    Args:
      workdir: folder of the recipe, with the predictions of every stage.
      stages: all stages, in order.
      teacher: scored like the stages; None without one.
      results: the aims.
      few_steps: whether stages were cut to a few steps, which the page then says at its top.
    """
    models = [stage for stage in stages if stage.rows]
    compared = [*models, *([teacher] if teacher else [])]
    return template.write(
        workdir / FILE,
        "recipe/page.html.jinja",
        name=workdir.resolve().name,
        stages=stages,
        compared=compared,
        aims=results,
        lines=[_line(key, compared) for key in aims.columns(compared)],
        pictures=_plots(models),
        reports=[stage.name for stage in stages if (workdir / stage.name / FILE).is_file()],
        trace=next((f"{s.name}/{s.facts['page']}" for s in stages if "page" in s.facts), ""),
        agent=next((stage.facts for stage in stages if stage.name == "agent"), None),
        warning=FEW_STEPS if few_steps else "",
        purpose=PURPOSE,
        examples=examples.choose(workdir, compared),
    )


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
    """Scores over the stages, one plot for each data set and format in which a score changes."""
    groups: dict[tuple[str, str], dict[str, list[dict | None]]] = {}
    for key in aims.columns(models):
        rows = [aims.row(stage, *key) for stage in models]
        groups.setdefault((key[0], key[2]), {})[key[1]] = rows
    names = [stage.name for stage in models]
    return [
        _plot(f"{split}, {kind}", names, lines)
        for (split, kind), lines in groups.items()
        if any(len({row["score"] for row in rows if row}) > 1 for rows in lines.values())
    ]


def _plot(title: str, names: list[str], lines: dict[str, list[dict | None]]) -> str:
    """One plot; bars are 95% intervals, a little apart so that they do not hide one another."""
    canvas = figure.Figure(figsize=(5.6, 3.1), layout="constrained")
    axes = canvas.subplots()
    for number, (family, rows) in enumerate(lines.items()):
        apart = 0.07 * (number - (len(lines) - 1) / 2)
        points = [(x + apart, row["score"], row) for x, row in enumerate(rows) if row]
        xs, scores, kept = zip(*points, strict=True)
        below, above = (
            [abs(row["score"] - row.get(end, row["score"])) for row in kept]
            for end in ("low", "high")
        )
        line = axes.plot(xs, scores, marker="o", markersize=3.5, linewidth=1.4, label=family)
        axes.errorbar(
            xs,
            scores,
            (below, above),
            fmt="none",
            ecolor=line[0].get_color(),
            elinewidth=1,
            alpha=0.5,
        )
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    # Outside the axes, where the legend hides no line.
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return svg.render(canvas)
