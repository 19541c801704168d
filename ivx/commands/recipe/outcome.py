"""What a recipe was to reach, and what it did: a table of stages and a list of aims.

advantage  mean over rows of score - chance          what a model knows beyond guessing
gap        mean score of the teacher - of the model
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from ivx.commands.recipe.progress import Done

# A row in which the base is less than this above chance says nothing of what conversion keeps.
_KNOWN = 0.05


@dataclasses.dataclass(frozen=True)
class Aim:
    """One thing wanted: what, the bound, what was found, and whether that is enough."""

    what: str
    wanted: str
    found: str
    reached: bool


def score(done: Done, split: str, family: str, kind: str = "open") -> float | None:
    """One score of a stage; None where it was not asked."""
    for row in done.rows.get(split, ()):
        if row["family"] == family and row["format"] == kind:
            return row["score"]
    return None


def kept(base: Done, other: Done, split: str) -> float | None:
    """Share of the base's advantage over chance that another model has; None if it has none."""
    known = [row for row in base.rows.get(split, ()) if row["score"] - row["chance"] > _KNOWN]
    if not known:
        return None
    had = sum(row["score"] - row["chance"] for row in known)
    has = sum(score(other, split, row["family"], row["format"]) - row["chance"] for row in known)
    return has / had


def choices(done: Done) -> float | None:
    """Accuracy over all multiple-choice questions, each counted once."""
    return _mean(done, lambda row: row["format"] == "choice")


def grounding(done: Done) -> float | None:
    """Mean IoU over all grounding questions, each counted once."""
    return _mean(done, lambda row: row["metric"] == "mIoU")


def overall(done: Done) -> float:
    """Mean score over all rows of all data sets."""
    scores = [row["score"] for rows in done.rows.values() for row in rows]
    return sum(scores) / len(scores)


def aims(stages: Mapping[str, Done], teacher: Done | None, splits: Sequence[str]) -> list[Aim]:
    """Every aim that what was asked can decide.

    Args:
      stages: by name.
      teacher: scored like the stages.
      splits: the data sets of short and of long videos.
    """
    found = []
    for name, what, least in (
        ("convert", "conversion alone keeps of the advantage of the base", 0.75),
        ("cpt", "continued pretraining brings it back to", 0.9),
    ):
        if {"base", name} <= stages.keys():
            share = kept(stages["base"], stages[name], splits[0])
            if share is not None:
                found.append(Aim(what, f">= {least:.0%}", f"{share:.0%}", share >= least))
    if {"sft_short", "sft_long"} <= stages.keys():
        for family in ("long_grounding", "long_needle"):
            before, after = (
                score(stages[name], splits[-1], family) for name in ("sft_short", "sft_long")
            )
            if before is not None:
                change = f"{before:.3f} -> {after:.3f}"
                what = f"long fine-tuning lifts {family}"
                found.append(Aim(what, "above short", change, after > before))
    if {"sft_long", "rl_gspo"} <= stages.keys():
        for what, measure, least in (
            ("RL changes grounding mIoU by", grounding, 0.05),
            ("RL changes multiple choice by", choices, -0.02),
        ):
            before, after = (measure(stages[name]) for name in ("sft_long", "rl_gspo"))
            if before is not None:
                rise = after - before
                found.append(Aim(what, f">= {least:+.3f}", f"{rise:+.3f}", rise >= least))
    if teacher and {"rl_gspo", "opd"} <= stages.keys():
        gap, left = (overall(teacher) - overall(stages[name]) for name in ("rl_gspo", "opd"))
        what = "distillation closes of the gap to its teacher"
        share = f"{(gap - left) / gap:.0%}" if gap > 0 else "no gap"
        found.append(Aim(what, ">= 33%", share, gap > 0 and gap - left >= gap / 3))
    if "agent" in stages:
        facts = stages["agent"].facts
        agent, alone = facts["agent"], facts["single_pass"]
        what = "the agent on long needles, against one pass with as many frames in the context"
        found.append(
            Aim(
                what,
                ">= 1.5 times",
                f"{agent:.3f} to {alone:.3f}",
                agent > 0 and agent >= 1.5 * alone,
            )
        )
    return found


def columns(stages: Sequence[Done]) -> list[tuple[str, str, str]]:
    """(data set, family, format) of every row that a stage has, data sets in their order."""
    order = list(dict.fromkeys(split for done in stages for split in done.rows))
    keys = {
        (split, row["family"], row["format"])
        for done in stages
        for split, rows in done.rows.items()
        for row in rows
    }
    return sorted(keys, key=lambda key: (order.index(key[0]), *key))


def _mean(done: Done, chosen: Callable[[dict], bool]) -> float | None:
    rows = [row for rows in done.rows.values() for row in rows if chosen(row)]
    count = sum(row["count"] for row in rows)
    return sum(row["score"] * row["count"] for row in rows) / count if count else None


def render(stages: Sequence[Done], reached: Sequence[Aim]) -> str:
    """The table and the aims as text."""
    models = [done for done in stages if done.rows]
    width = max(len(done.name) for done in models) + 2
    lines = ["".join([f"{'':34s}", *[f"{done.name:>{width}s}" for done in models]])]
    lines.append(_line("held-out loss", [done.loss for done in models], width))
    asked = ""
    for split, family, kind in columns(models):
        if split != asked:
            lines.append(split)
            asked = split
        label = f"  {family} {kind}"
        lines.append(_line(label, [score(done, split, family, kind) for done in models], width))
    minutes = [
        f"{done.seconds / 60:>{width - 1}.1f}{'+' if done.resumed else ' '}" for done in models
    ]
    lines.append(f"{'minutes':34s}" + "".join(minutes))
    lines.append(f"{'tokens':34s}" + "".join(f"{done.tokens:>{width},d}" for done in models))
    lines += [""] + [
        f"  {'reached' if aim.reached else 'MISSED '}  {aim.what}: {aim.found}"
        f" (wanted {aim.wanted})"
        for aim in reached
    ]
    return "\n".join(lines)


def _line(label: str, values: Sequence[float | None], width: int) -> str:
    return f"{label:34s}" + "".join(
        f"{'':>{width}s}" if value is None else f"{value:>{width}.3f}" for value in values
    )
