"""Curves of a run as inline SVG.

A panel is one figure with one or more strips over the same steps, so that metrics of different
magnitude have separate scales.
"""

import dataclasses
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence

from matplotlib import figure, ticker
from matplotlib.axes import Axes

from ivx.reporting import svg

Points = list[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Strip:
    """Metrics that share one scale.

    Attributes:
      unit: unit of the scale.
      names: metric -> label.
      scale: "linear", "log", or "share" (0 to 1, shown in per cent).
      group: prefix of further metrics to draw, labelled by the rest of their names.
    """

    unit: str
    names: Mapping[str, str]
    scale: str = "linear"
    group: str = ""


PANELS = {
    "Loss": (
        Strip(
            "nats per token, as reduced",
            {"loss/total": "training", "validation/loss": "validation"},
        ),
    ),
    "Reward": (
        Strip(
            "mean over answers",
            {
                "rl/reward": "all",
                "rl/reward_grounding": "grounding",
                "rl/equal_groups": "equal groups",
            },
        ),
    ),
    # Parts differ by orders of magnitude, and a diverging run by more.
    "Gradient norms by part": (Strip("before clipping", {"grad/norm": "all"}, "log", "grad/"),),
    "Pace": (
        Strip("tokens/s", {"tokens/sec": "tokens"}),
        Strip("frames/s", {"frames/sec": "frames"}),
    ),
    "Efficiency": (
        Strip(
            "per cent",
            {"mfu": "MFU: share of the peak", "goodput": "goodput: share of the time"},
            "share",
        ),
    ),
    # The first wait includes the start of the loader and is thousands of times longer.
    "Data wait": (Strip("ms per step", {"data/wait_ms": "waiting for batches"}, "log"),),
    "Memory, high-water mark": (
        Strip("GiB", {"memory/device_gib": "fullest device", "memory/host_gib": "host process"}),
    ),
}
# A count among the norms.
_NO_NORM = "grad/skipped_steps"
_COLOURS = ("#2563eb", "#ea580c", "#0d9488", "#9333ea", "#ca8a04", "#64748b")
# The largest value that is drawn: that of float32.
_LARGEST = 3.5e38
_TOTAL_COLOUR = "#1c1f26"
# A linear axis shows values of up to this multiple of the median.
_RANGE = 10
_DASHES = ("-", "--", ":")


def draw(rows: Sequence[dict]) -> list[str]:
    """One SVG for each panel with data.

    Args:
      rows: rows of metrics.jsonl.
    """
    return [svg.render(canvas) for canvas in panels(rows).values()]


def panels(rows: Sequence[dict]) -> dict[str, figure.Figure]:
    """Title -> figure of each panel with data; strips without data are left out.

    Args:
      rows: rows of metrics.jsonl.
    """
    drawn = {
        title: [(strip, lines) for strip in strips if any((lines := _lines(strip, rows)).values())]
        for title, strips in PANELS.items()
    }
    return {title: _panel(title, strips) for title, strips in drawn.items() if strips}


def _lines(strip: Strip, rows: Sequence[dict]) -> dict[str, Points]:
    """Label -> points. Metrics without data are included, so that colours are equal in all runs."""
    names = dict(strip.names)
    if strip.group:
        others = {name for row in rows for name in row if name.startswith(strip.group)}
        for name in sorted(others - {_NO_NORM, *names}):
            names[name] = name.removeprefix(strip.group).replace("_", " ")
    # The gradient of a frozen part is 0, which a log scale cannot show.
    minimum = math.ulp(0.0) if strip.scale == "log" else -math.inf
    return {
        label: [
            (row["step"], row[name])
            for row in rows
            if abs(row.get(name, math.nan)) <= _LARGEST and row[name] >= minimum
        ]
        for name, label in names.items()
    }


def _panel(title: str, strips: Sequence[tuple[Strip, dict[str, Points]]]) -> figure.Figure:
    canvas = figure.Figure(figsize=(5.2, 3.0), layout="constrained")
    rows = canvas.subplots(len(strips), sharex=True, squeeze=False)[:, 0]
    rows[0].set_title(title, loc="left", fontsize=11, fontweight="bold")
    rows[-1].set_xlabel("step")
    rows[-1].xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    for axes, (strip, lines) in zip(rows, strips, strict=True):
        _strip(axes, strip, lines)
    if any(len(lines) > 1 for _, lines in strips):
        # Outside the axes, where it hides no line.
        canvas.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return canvas


def _strip(axes: Axes, strip: Strip, lines: dict[str, Points]) -> None:
    styles = itertools.cycle(itertools.product(_DASHES, _COLOURS))
    for number, (label, points) in enumerate(lines.items()):
        is_total = bool(strip.group) and number == 0
        dash, colour = ("-", _TOTAL_COLOUR) if is_total else next(styles)
        if not points:
            continue
        axes.plot(
            *zip(*points, strict=True),
            color=colour,
            linestyle=dash,
            label=label,
            linewidth=2.2 if is_total else 1.6,
            marker="o" if len(points) < 12 else None,
        )
    axes.set_ylabel(strip.unit)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    values = [value for points in lines.values() for _, value in points]
    plain = ticker.FuncFormatter(lambda value, _: f"{value:,.10g}")
    if strip.scale == "log":
        axes.set_yscale("log")
        narrow = max(values) < 50 * min(values)
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if narrow else (1,)))
        axes.yaxis.set_major_formatter(plain)
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    elif strip.scale == "share":
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(ticker.PercentFormatter(1, symbol=""))
    elif min(values) > 0 and max(values) > _RANGE * statistics.median(values):
        # First steps or a spike would flatten the rest, and a cut axis would hide them.
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(plain)
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    elif min(values) >= 0:
        axes.set_ylim(0, max(values) * 1.05 or 1)
        axes.yaxis.set_major_formatter(plain)
