"""What a recipe was to reach, and what it did: a table of stages and a list of aims.

advantage  mean over rows of score - chance          what a model knows beyond guessing
gap        mean score of the teacher - of the model
"""

import dataclasses
from collections.abc import Mapping, Sequence

from ivx.commands.recipe.progress import Done

SHORT, LONG = "synthetic_test", "synthetic_test_long"
# What the base was trained on, and conversion can therefore spoil.
_BASE_FAMILIES = ("attribute", "counting", "motion", "order", "caption")


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


def advantage(done: Done) -> float:
    """Mean of score - chance over the rows that the base was trained for."""
    rows = [row for row in done.rows[SHORT] if row["family"] in _BASE_FAMILIES]
    return sum(row["score"] - row["chance"] for row in rows) / len(rows)


def choices(done: Done) -> float:
    """Accuracy over all multiple-choice questions, each counted once."""
    rows = [row for rows in done.rows.values() for row in rows if row["format"] == "choice"]
    return sum(row["score"] * row["count"] for row in rows) / sum(row["count"] for row in rows)


def grounding(done: Done) -> float:
    """Mean IoU over short and long grounding questions, each counted once."""
    rows = [row for rows in done.rows.values() for row in rows if row["metric"] == "mIoU"]
    return sum(row["score"] * row["count"] for row in rows) / sum(row["count"] for row in rows)


def overall(done: Done) -> float:
    """Mean score over all rows of all data sets."""
    scores = [row["score"] for rows in done.rows.values() for row in rows]
    return sum(scores) / len(scores)


def aims(stages: Mapping[str, Done], teacher: Done | None) -> list[Aim]:
    """Every aim whose stages have run."""
    found = []
    if {"base", "convert"} <= stages.keys():
        kept = advantage(stages["convert"]) / advantage(stages["base"])
        found.append(
            Aim(
                "conversion alone keeps of the base's advantage",
                "> 75%",
                f"{kept:.0%}",
                kept > 0.75,
            )
        )
    if {"base", "cpt"} <= stages.keys():
        kept = advantage(stages["cpt"]) / advantage(stages["base"])
        found.append(Aim("after continued pretraining", ">= 90%", f"{kept:.0%}", kept >= 0.9))
    if {"sft_short", "sft_long"} <= stages.keys():
        for family in ("long_grounding", "long_needle"):
            before = score(stages["sft_short"], LONG, family)
            after = score(stages["sft_long"], LONG, family)
            found.append(
                Aim(
                    f"long fine-tuning lifts {family}",
                    "above short",
                    f"{before:.3f} -> {after:.3f}",
                    after > before,
                )
            )
    if {"sft_long", "rl_gspo"} <= stages.keys():
        rise = grounding(stages["rl_gspo"]) - grounding(stages["sft_long"])
        change = choices(stages["rl_gspo"]) - choices(stages["sft_long"])
        found.append(Aim("RL lifts grounding mIoU", ">= +0.050", f"{rise:+.3f}", rise >= 0.05))
        found.append(
            Aim("RL keeps multiple choice", ">= -0.020", f"{change:+.3f}", change >= -0.02)
        )
    if teacher and {"rl_gspo", "opd"} <= stages.keys():
        before = overall(teacher) - overall(stages["rl_gspo"])
        after = overall(teacher) - overall(stages["opd"])
        closed = (before - after) / before if before > 0 else 0.0
        found.append(
            Aim(
                "distillation closes of the gap to its teacher",
                ">= 33%",
                f"{closed:.0%}",
                closed >= 1 / 3,
            )
        )
    if "agent" in stages:
        facts = stages["agent"].facts
        times = facts["agent"] / max(facts["single_pass"], 1e-9)
        found.append(
            Aim(
                "the agent finds long needles, against one pass at as many frames",
                ">= 1.5 times",
                f"{facts['agent']:.3f} against {facts['single_pass']:.3f}",
                times >= 1.5,
            )
        )
    return found


def columns(stages: Sequence[Done]) -> list[tuple[str, str, str]]:
    """(data set, family, format) of every row that a stage has, short videos first."""
    keys = {
        (split, row["family"], row["format"])
        for done in stages
        for split, rows in done.rows.items()
        for row in rows
    }
    return sorted(keys, key=lambda key: (key[0] != SHORT, *key))


def render(stages: Sequence[Done], reached: Sequence[Aim]) -> str:
    """The table and the aims as text."""
    models = [done for done in stages if done.rows]
    width = max(len(done.name) for done in models) + 2
    lines = ["".join([f"{'':34s}", *[f"{done.name:>{width}s}" for done in models]])]
    lines.append(_line("held-out loss", [done.loss for done in models], width))
    for split, family, kind in columns(models):
        label = f"{family} {kind}" + ("" if split == SHORT else f" ({split.split('_')[-1]})")
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
