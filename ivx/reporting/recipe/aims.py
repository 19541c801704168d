"""The scores of a recipe's stages, and its aims: which ones it set, and which ones it reached.

advantage  mean over rows of score - chance              what a model knows beyond guessing
gap        mean score of the teacher - that of the model
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from ivx.reporting.recipe.record import StageRecord

# Rows in which the base is closer to chance do not count for what conversion keeps.
_MIN_ADVANTAGE = 0.05


@dataclasses.dataclass(frozen=True)
class Aim:
    """An aim: what is measured, the bound, the measured value, and whether it reaches the bound."""

    what: str
    wanted: str
    found: str
    reached: bool


def row(stage: StageRecord, split: str, family: str, kind: str = "open") -> dict | None:
    """One row of a stage; None if it has no such row."""
    for candidate in stage.rows.get(split, ()):
        if candidate["family"] == family and candidate["format"] == kind:
            return candidate
    return None


def score(stage: StageRecord, split: str, family: str, kind: str = "open") -> float | None:
    """One score of a stage; None if it has no such row."""
    found = row(stage, split, family, kind)
    return found["score"] if found else None


def kept(base: StageRecord, stage: StageRecord, split: str) -> float | None:
    """Share of the base's advantage over chance that a stage has; None if the base has none."""
    rows = [
        row for row in base.rows.get(split, ()) if row["score"] - row["chance"] > _MIN_ADVANTAGE
    ]
    if not rows:
        return None
    before = sum(row["score"] - row["chance"] for row in rows)
    after = sum(score(stage, split, row["family"], row["format"]) - row["chance"] for row in rows)
    return after / before


def choices(stage: StageRecord) -> float | None:
    """Accuracy over all multiple-choice questions, weighted by question."""
    return _mean(stage, lambda row: row["format"] == "choice")


def grounding(stage: StageRecord) -> float | None:
    """Mean IoU over all grounding questions, weighted by question."""
    return _mean(stage, lambda row: row["metric"] == "mIoU")


def overall(stage: StageRecord) -> float:
    """Mean score over all rows of all data sets."""
    scores = [row["score"] for rows in stage.rows.values() for row in rows]
    return sum(scores) / len(scores)


def _mean(stage: StageRecord, selects: Callable[[dict], bool]) -> float | None:
    rows = [row for rows in stage.rows.values() for row in rows if selects(row)]
    count = sum(row["count"] for row in rows)
    return sum(row["score"] * row["count"] for row in rows) / count if count else None


def aims(
    stages: Mapping[str, StageRecord], teacher: StageRecord | None, splits: Sequence[str]
) -> list[Aim]:
    """All aims that the stages can decide.

    Args:
      stages: by name.
      teacher: scored like the stages.
      splits: the data sets of short and of long videos.
    """
    results = [*_conversion_aims(stages, splits[0]), *_long_video_aims(stages, splits[-1])]
    results += _reward_aims(stages)
    if teacher and {"rl_gspo", "opd"} <= stages.keys():
        gap, rest = (overall(teacher) - overall(stages[name]) for name in ("rl_gspo", "opd"))
        share = f"{(gap - rest) / gap:.0%}" if gap > 0 else "no gap"
        reached = gap > 0 and gap - rest >= gap / 3
        results.append(
            Aim(
                "share of the gap to its teacher that distillation closes", ">= 33%", share, reached
            )
        )
    # Tool calls are learned in long fine-tuning.
    if {"agent", "sft_long"} <= stages.keys():
        facts = stages["agent"].facts
        agent, single = facts["agent"], facts["single_pass"]
        what = "the agent on long needles, against one pass with as many frames in the context"
        reached = agent > 0 and agent >= 1.5 * single
        results.append(Aim(what, ">= 1.5 times", f"{agent:.3f} to {single:.3f}", reached))
    return results


def _conversion_aims(stages: Mapping[str, StageRecord], split: str) -> list[Aim]:
    results = []
    for name, what, bound in (
        ("convert", "advantage over chance kept by conversion alone", 0.75),
        ("cpt", "advantage over chance kept after continued pretraining", 0.9),
    ):
        if {"base", name} <= stages.keys():
            share = kept(stages["base"], stages[name], split)
            if share is not None:
                results.append(Aim(what, f">= {bound:.0%}", f"{share:.0%}", share >= bound))
    return results


def _long_video_aims(stages: Mapping[str, StageRecord], split: str) -> list[Aim]:
    results = []
    if not {"sft_short", "sft_long"} <= stages.keys():
        return results
    for family in ("long_grounding", "long_needle"):
        before, after = (score(stages[name], split, family) for name in ("sft_short", "sft_long"))
        if before is not None:
            change = f"{before:.3f} -> {after:.3f}"
            what = f"{family} after long fine-tuning"
            results.append(Aim(what, "above short", change, after > before))
    return results


def _reward_aims(stages: Mapping[str, StageRecord]) -> list[Aim]:
    results = []
    if not {"sft_long", "rl_gspo"} <= stages.keys():
        return results
    for what, measure, bound in (
        ("change of grounding mIoU by RL", grounding, 0.05),
        ("change of multiple-choice accuracy by RL", choices, -0.02),
    ):
        before, after = (measure(stages[name]) for name in ("sft_long", "rl_gspo"))
        if before is not None:
            change = after - before
            results.append(Aim(what, f">= {bound:+.3f}", f"{change:+.3f}", change >= bound))
    return results


def columns(stages: Sequence[StageRecord]) -> list[tuple[str, str, str]]:
    """(data set, family, format) of all rows, data sets in order of appearance."""
    order = list(dict.fromkeys(split for stage in stages for split in stage.rows))
    keys = {
        (split, row["family"], row["format"])
        for stage in stages
        for split, rows in stage.rows.items()
        for row in rows
    }
    return sorted(keys, key=lambda key: (order.index(key[0]), *key))


def render(stages: Sequence[StageRecord], results: Sequence[Aim]) -> str:
    """The table and the aims as text."""
    models = [stage for stage in stages if stage.rows]
    width = max(len(stage.name) for stage in models) + 2
    lines = ["".join([f"{'':34s}", *[f"{stage.name:>{width}s}" for stage in models]])]
    lines.append(_line("held-out loss", [stage.loss for stage in models], width))
    current = ""
    for split, family, kind in columns(models):
        if split != current:
            lines.append(split)
            current = split
        scores = [score(stage, split, family, kind) for stage in models]
        lines.append(_line(f"  {family} {kind}", scores, width))
    minutes = [
        f"{stage.seconds / 60:>{width - 1}.1f}{'+' if stage.resumed else ' '}" for stage in models
    ]
    lines.append(f"{'minutes':34s}" + "".join(minutes))
    lines.append(f"{'tokens':34s}" + "".join(f"{stage.tokens:>{width},d}" for stage in models))
    lines += [""] + [
        f"  {'reached' if aim.reached else 'MISSED '}  {aim.what}: {aim.found} (aim: {aim.wanted})"
        for aim in results
    ]
    return "\n".join(lines)


def _line(label: str, values: Sequence[float | None], width: int) -> str:
    return f"{label:34s}" + "".join(
        f"{'':>{width}s}" if value is None else f"{value:>{width}.3f}" for value in values
    )
