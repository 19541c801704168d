"""Curves of a run as inline SVG."""

import io
import math
import statistics
from collections.abc import Sequence

from matplotlib import figure

# Title, unit, and the metrics drawn in it with their labels.
PANELS = (
    (
        "Loss",
        "nats a token, as reduced",
        {"loss/total": "training", "validation/loss": "validation"},
    ),
    (
        "Reward",
        "mean over answers",
        {"rl/reward": "all", "rl/reward_grounding": "grounding", "rl/equal_groups": "equal groups"},
    ),
    ("Gradient norm", "before clipping", {"grad/norm": "all parameters"}),
    ("Speed", "tokens a second", {"tokens/sec": "text and video"}),
    ("Data wait", "ms a step", {"data/wait_ms": "waiting for batches"}),
)
_COLOURS = ("#2563eb", "#ea580c", "#64748b")


def draw(rows: Sequence[dict]) -> list[str]:
    """One SVG for each panel that has numbers.

    Args:
      rows: of metrics.jsonl.
    """
    pictures = []
    for title, unit, names in PANELS:
        lines = {
            label: [
                (row["step"], row[name]) for row in rows if math.isfinite(row.get(name, math.nan))
            ]
            for name, label in names.items()
        }
        lines = {label: points for label, points in lines.items() if points}
        if lines:
            pictures.append(_panel(title, unit, lines))
    return pictures


def _panel(title: str, unit: str, lines: dict[str, list[tuple[float, float]]]) -> str:
    canvas = figure.Figure(figsize=(5.2, 2.7), layout="constrained")
    axes = canvas.subplots()
    for (label, points), colour in zip(lines.items(), _COLOURS, strict=False):
        steps, values = zip(*points, strict=True)
        axes.plot(
            steps,
            values,
            color=colour,
            label=label,
            linewidth=1.6,
            marker="o" if len(points) < 12 else None,
        )
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    values = [value for points in lines.values() for _, value in points]
    if min(values) >= 0:
        # Not to let the first steps flatten all that follows.
        axes.set_ylim(0, min(max(values), 4 * statistics.median(values)) * 1.05 or 1)
    if len(lines) > 1:
        axes.legend(frameon=False)
    out = io.StringIO()
    canvas.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
