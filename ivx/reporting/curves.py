"""Curves of a run as inline SVG.

A panel is one picture: one or more strips over the same steps, so that numbers of unlike size keep
scales of their own.
"""

import dataclasses
import io
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence

from matplotlib import figure, ticker
from matplotlib.axes import Axes

Points = list[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Strip:
    """Metrics that share one scale.

    Attributes:
      unit: of the scale.
      names: metric -> its label.
      scale: "linear", "log", or "share" of 0 to 1, told in per cent.
      group: all other metrics whose names begin so are drawn too, under their own names.
    """

    unit: str
    names: Mapping[str, str]
    scale: str = "linear"
    group: str = ""


PANELS = {
    "Loss": (
        Strip(
            "nats a token, as reduced", {"loss/total": "training", "validation/loss": "validation"}
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
    # Parts differ by orders of magnitude, and a run that diverges does so by more.
    "Gradient norms by part": (Strip("before clipping", {"grad/norm": "all"}, "log", "grad/"),),
    "Pace": (
        Strip("tokens/s", {"tokens/sec": "tokens"}),
        Strip("frames/s", {"frames/sec": "frames"}),
    ),
    "Efficiency": (
        Strip(
            "per cent",
            {"mfu": "MFU: of the devices' peak", "goodput": "goodput: of the time, in steps"},
            "share",
        ),
    ),
    # The first wait starts the loader, and is thousands of times those after it.
    "Data wait": (Strip("ms a step", {"data/wait_ms": "waiting for batches"}, "log"),),
    "Memory, high-water mark": (
        Strip("GiB", {"memory/device_gib": "fullest device", "memory/host_gib": "host process"}),
    ),
}
# A count, which stands among the norms.
_NO_NORM = "grad/skipped_steps"
_COLOURS = ("#2563eb", "#ea580c", "#0d9488", "#9333ea", "#ca8a04", "#64748b")
_WHOLE = "#1c1f26"
_DASHES = ("-", "--", ":")


def draw(rows: Sequence[dict]) -> list[str]:
    """One SVG for each panel that has numbers.

    Args:
      rows: of metrics.jsonl.
    """
    return [_svg(canvas) for canvas in panels(rows).values()]


def panels(rows: Sequence[dict]) -> dict[str, figure.Figure]:
    """Title -> picture of each panel that has numbers; strips without are left out.

    Args:
      rows: of metrics.jsonl.
    """
    found = {
        title: [(strip, lines) for strip in strips if any((lines := _lines(strip, rows)).values())]
        for title, strips in PANELS.items()
    }
    return {title: _panel(title, strips) for title, strips in found.items() if strips}


def _lines(strip: Strip, rows: Sequence[dict]) -> dict[str, Points]:
    """Label -> points, also of metrics without any, so that colours are the same in every run."""
    names = dict(strip.names)
    if strip.group:
        others = {name for row in rows for name in row if name.startswith(strip.group)}
        for name in sorted(others - {_NO_NORM, *names}):
            names[name] = name.removeprefix(strip.group).replace("_", " ")
    # The gradient of a frozen part is 0, which has no place on a log scale.
    least = math.ulp(0.0) if strip.scale == "log" else -math.inf
    return {
        label: [
            (row["step"], row[name])
            for row in rows
            if math.isfinite(row.get(name, math.nan)) and row[name] >= least
        ]
        for name, label in names.items()
    }


def _panel(title: str, strips: Sequence[tuple[Strip, dict[str, Points]]]) -> figure.Figure:
    canvas = figure.Figure(figsize=(5.2, 3.0), layout="constrained")
    every = canvas.subplots(len(strips), sharex=True, squeeze=False)[:, 0]
    every[0].set_title(title, loc="left", fontsize=11, fontweight="bold")
    every[-1].set_xlabel("step")
    for axes, (strip, lines) in zip(every, strips, strict=True):
        _strip(axes, strip, lines)
    if any(len(lines) > 1 for _, lines in strips):
        # Outside, where it hides no line.
        canvas.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return canvas


def _strip(axes: Axes, strip: Strip, lines: dict[str, Points]) -> None:
    styles = itertools.cycle(itertools.product(_DASHES, _COLOURS))
    for number, (label, points) in enumerate(lines.items()):
        whole = strip.group and number == 0
        dash, colour = ("-", _WHOLE) if whole else next(styles)
        if not points:
            continue
        axes.plot(
            *zip(*points, strict=True),
            color=colour,
            linestyle=dash,
            label=label,
            linewidth=2.2 if whole else 1.6,
            marker="o" if len(points) < 12 else None,
        )
    axes.set_ylabel(strip.unit)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    values = [value for points in lines.values() for _, value in points]
    plain = ticker.FuncFormatter(lambda value, _: f"{value:,.10g}")
    if strip.scale == "log":
        axes.set_yscale("log")
        near = max(values) < 50 * min(values)
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if near else (1,)))
        axes.yaxis.set_major_formatter(plain)
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    elif strip.scale == "share":
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(ticker.PercentFormatter(1, symbol=""))
    elif min(values) >= 0:
        # Not to let the first steps flatten all that follows.
        axes.set_ylim(0, min(max(values), 4 * statistics.median(values) or max(values)) * 1.05 or 1)
        axes.yaxis.set_major_formatter(plain)


def _svg(canvas: figure.Figure) -> str:
    out = io.StringIO()
    canvas.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
