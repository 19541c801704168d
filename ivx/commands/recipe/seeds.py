"""Several seeds of one recipe: the same table with means and ranges, as Markdown.

Where the recipe writes its data, every seed has its own: then ranges hold the luck of training and
that of the questions.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

from ivx.commands.recipe import outcome
from ivx.commands.recipe.outcome import Aim
from ivx.commands.recipe.progress import Done
from ivx.errors import UserError

FILE = "seeds.md"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one seed came to.

    Attributes:
      stages: in their order.
      aims: of them.
      teacher: scored like the stages; None where there is none.
    """

    stages: Sequence[Done]
    aims: Sequence[Aim]
    teacher: Done | None

    @property
    def models(self) -> list[Done]:
        """Stages that made a model, and the teacher."""
        made = [done for done in self.stages if done.rows]
        return [*made, *([self.teacher] if self.teacher else [])]


def numbers(given: Sequence[str]) -> list[int]:
    """Seeds as they were typed.

    Raises:
      UserError: one is no whole number from 0 on, or is there twice.
    """
    if not all(map(str.isdecimal, given)) or len(set(map(int, given))) < len(given):
        raise UserError(f"--seeds={','.join(given)} are not different numbers, as in 0,1,2")
    return [int(text) for text in given]


def write(workdir: pathlib.Path, outcomes: Sequence[Outcome]) -> pathlib.Path:
    """Writes `workdir`/seeds.md."""
    path = workdir / FILE
    path.write_text(render(outcomes) + "\n")
    return path


def render(outcomes: Sequence[Outcome]) -> str:
    """Scores of all stages as `mean (least - most)`, then every aim with what each seed found."""
    names = [done.name for done in outcomes[0].models]
    lines = ["| | chance | " + " | ".join(names) + " |", "| --- | --- |" + " --- |" * len(names)]

    def row(label: str, chance: str, measure: Callable[[Done], float | None], form: str) -> None:
        cells = [
            _spread([measure(one.models[place]) for one in outcomes], form)
            for place in range(len(names))
        ]
        lines.append(f"| {label} | {chance} | " + " | ".join(cells) + " |")

    row("held-out loss", "", lambda done: done.loss, ".3f")
    # A rare family may be missing from the questions of one seed.
    for key in outcome.columns([done for one in outcomes for done in one.models]):
        chance = _mean([c for one in outcomes for c in _chances(one.models[0], key)])
        row(
            f"{key[1]}, {key[2]}",
            f"{chance:.2f}",
            lambda done, key=key: outcome.score(done, *key),
            ".3f",
        )
    row("minutes", "", lambda done: done.seconds / 60, ".1f")
    row("tokens", "", lambda done: float(done.tokens), ",.0f")
    lines += ["", "| aim | wanted | found | reached |", "| --- | --- | --- | --- |"]
    aims = {}
    for aim in (aim for one in outcomes for aim in one.aims):
        aims.setdefault((aim.what, aim.wanted), []).append(aim)
    for (what, wanted), same in aims.items():
        found = ", ".join(aim.found for aim in same)
        reached = f"{sum(aim.reached for aim in same)} of {len(same)}"
        lines.append(f"| {what} | {wanted} | {found} | {reached} |")
    return "\n".join(lines)


def _chances(done: Done, key: tuple[str, str, str]) -> list[float]:
    """Chance of a row, if the model was asked it."""
    split, family, kind = key
    rows = done.rows.get(split, ())
    return [row["chance"] for row in rows if (row["family"], row["format"]) == (family, kind)]


def _spread(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    least, mean, most = (format(v, form) for v in (min(known), _mean(known), max(known)))
    return mean if least == most else f"{mean} ({least} - {most})"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
