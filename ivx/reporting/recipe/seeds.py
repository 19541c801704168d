"""Several seeds of one recipe: the table of scores with means and ranges, as Markdown.

If the recipe synthesizes its data, each seed has its own data. The ranges then include the variance
of both training and questions.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

from ivx.reporting.recipe import aims
from ivx.reporting.recipe.aims import Aim
from ivx.reporting.recipe.record import StageRecord

FILE = "seeds.md"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of one seed.

    Attributes:
      stages: in order.
      aims: aims of these stages.
      teacher: scored like the stages; None without a teacher.
    """

    stages: Sequence[StageRecord]
    aims: Sequence[Aim]
    teacher: StageRecord | None

    @property
    def models(self) -> list[StageRecord]:
        """Stages that made a model, and the teacher."""
        models = [stage for stage in self.stages if stage.rows]
        return [*models, *([self.teacher] if self.teacher else [])]


def write(workdir: pathlib.Path, outcomes: Sequence[Outcome]) -> pathlib.Path:
    """Writes `workdir`/seeds.md."""
    path = workdir / FILE
    path.write_text(render(outcomes) + "\n")
    return path


def render(outcomes: Sequence[Outcome]) -> str:
    """Scores of all stages as `mean (min - max)`, then every aim with the value of each seed."""
    names = [stage.name for stage in outcomes[0].models]
    lines = ["| | chance | " + " | ".join(names) + " |", "| --- | --- |" + " --- |" * len(names)]

    def row(
        label: str, chance: str, measure: Callable[[StageRecord], float | None], form: str
    ) -> None:
        cells = [
            _spread([measure(outcome.models[index]) for outcome in outcomes], form)
            for index in range(len(names))
        ]
        lines.append(f"| {label} | {chance} | " + " | ".join(cells) + " |")

    row("held-out loss", "", lambda stage: stage.loss, ".3f")
    # A rare family may be missing from the questions of a seed.
    for key in aims.columns([stage for outcome in outcomes for stage in outcome.models]):
        chance = _mean([c for outcome in outcomes for c in _chances(outcome.models[0], key)])
        row(
            f"{key[1]}, {key[2]}",
            f"{chance:.2f}",
            lambda stage, key=key: aims.score(stage, *key),
            ".3f",
        )
    row("minutes", "", lambda stage: stage.seconds / 60, ".1f")
    row("tokens", "", lambda stage: float(stage.tokens), ",.0f")
    lines += ["", "| aim | bound | measured | reached |", "| --- | --- | --- | --- |"]
    by_aim = {}
    for aim in (aim for outcome in outcomes for aim in outcome.aims):
        by_aim.setdefault((aim.what, aim.wanted), []).append(aim)
    for (what, bound), same in by_aim.items():
        measured = ", ".join(aim.found for aim in same)
        reached = f"{sum(aim.reached for aim in same)} of {len(same)}"
        lines.append(f"| {what} | {bound} | {measured} | {reached} |")
    return "\n".join(lines)


def _chances(stage: StageRecord, key: tuple[str, str, str]) -> list[float]:
    """The chance of a row; empty if the stage has no such row."""
    split, family, kind = key
    rows = stage.rows.get(split, ())
    return [row["chance"] for row in rows if (row["family"], row["format"]) == (family, kind)]


def _spread(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, mean, high = (format(v, form) for v in (min(known), _mean(known), max(known)))
    return mean if low == high else f"{mean} ({low} - {high})"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
