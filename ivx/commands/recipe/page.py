"""The page of a recipe: what each stage did to every score, and which aims were reached."""

import io
import pathlib
from collections.abc import Sequence

import jinja2
from matplotlib import figure

from ivx.commands.recipe import outcome
from ivx.commands.recipe.outcome import Aim
from ivx.commands.recipe.progress import Done

FILE = "report.html"


def write(
    workdir: pathlib.Path, stages: Sequence[Done], teacher: Done | None, aims: Sequence[Aim]
) -> pathlib.Path:
    """Writes `workdir`/report.html."""
    models = [done for done in stages if done.rows]
    compared = [*models, *([teacher] if teacher else [])]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ivx.commands.recipe", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("page.html.jinja").render(
        name=workdir.resolve().name,
        stages=stages,
        compared=compared,
        aims=aims,
        lines=[_line(key, compared) for key in outcome.columns(compared)],
        pictures=_pictures(models),
        reports=[d.name for d in stages if (workdir / d.name / FILE).is_file()],
        trace=next((f"{d.name}/{d.facts['page']}" for d in stages if "page" in d.facts), ""),
        agent=next((d.facts for d in stages if d.name == "agent"), None),
    )
    path = workdir / FILE
    path.write_text(page)
    return path


def _line(key: tuple[str, str, str], compared: Sequence[Done]) -> dict:
    """One row of the table: a family asked one way, over all stages."""
    split, family, kind = key
    found = [
        row
        for done in compared
        for row in done.rows.get(split, ())
        if (row["family"], row["format"]) == (family, kind)
    ]
    return {
        "split": split,
        "family": family,
        "format": kind,
        "metric": found[0]["metric"],
        "count": found[0]["count"],
        "chance": found[0]["chance"],
        "scores": [outcome.score(done, *key) for done in compared],
    }


def _pictures(models: Sequence[Done]) -> list[str]:
    """Scores over the stages, a picture for each data set and way of asking."""
    groups = {}
    for key in outcome.columns(models):
        scores = [outcome.score(done, *key) for done in models]
        groups.setdefault((key[0], key[2]), {})[key[1]] = scores
    names = [done.name for done in models]
    return [
        _picture(f"{split}, {kind}", names, lines)
        for (split, kind), lines in groups.items()
        if len(models) > 1
    ]


def _picture(title: str, names: list[str], lines: dict[str, list[float | None]]) -> str:
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
    # Beside the lines, which go everywhere.
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    out = io.StringIO()
    canvas.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
