"""The page of `python -m benchmarks schedules`: the goals, then one table per op."""

import itertools
from collections.abc import Iterable, Mapping, Sequence

NOTES = "## Notes"
_OLDER = "from before a change of the program, of the compiler or of how its schedule is read"
LEGEND = """\
- **cycles**: of a step: the sections that multiply and the loop around them, in a visit that needs
  no mask. **schedule**: the cycles at the chip's clock, without waiting for memory; a lower bound.
- **HBM**, **peak**: time of the same step at the bandwidth and at the peak of a core.
- **useful**: fraction of the peak that remains if the slower of schedule and HBM sets the pace.
- **MXU**: fraction of its capacity that is used while multiplying. **fullest slot**: the kind of
  instruction that fills most of its slots; "none" if instructions wait for one another. With `+`:
  of several kernels.
- **spills**: registers stored and reloaded for lack of registers.
- **XLA**: the compiler's estimate for the code around the kernels, in cycles per call; loops count
  as often as they run."""
_HEAD = (
    "| case | chip | step | cycles | schedule us | HBM us | peak us | schedule/HBM | useful | MXU"
    " | fullest slot | spills | VMEM MiB | XLA | temporaries MiB |"
)
_XLA_HEAD = "| case | chip | cycles of a call | ms | at the peak, ms | useful | temporaries MiB |"


def render(
    rows: Sequence[Mapping], versions: Mapping[str, str], cells: int, notes: str = ""
) -> str:
    """The page as Markdown.

    Args:
      rows: of cases, as stored.
      versions: of the packages that compiled them.
      cells: the number of rows of a complete page.
      notes: the text from NOTES on, from the previous page.
    """
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    missing, older = cells - len(rows), sum(bool(row.get("outdated")) for row in rows)
    parts = [
        "# Kernels for TPUs, by their static schedules",
        "Made by `make kernels-tpu`. All figures come from the compiler; nothing was timed.\n"
        f"Compiled with {named}.",
        f"**{missing} of {cells} cells are not compiled yet.**" if missing else "",
        f"**{older} of {cells} cells, marked (older), are {_OLDER}.**" if older else "",
        _goals(rows),
        *(
            f"## {op}\n\n{_tables(list(group))}"
            for op, group in itertools.groupby(sorted(rows, key=_order), lambda row: row["op"])
        ),
        f"## Columns\n\n{LEGEND}",
        notes,
    ]
    return "\n\n".join(part for part in parts if part).rstrip() + "\n"


def notes_of(page: str) -> str:
    """The handwritten text from the heading NOTES on."""
    start = page.find(f"\n{NOTES}\n")
    return page[start + 1 :] if start >= 0 else ""


def line(row: Mapping) -> str:
    """A row as one line of progress."""
    head = f"{row['chip']:6s} {row['case']}:"
    if row["refusal"]:
        return f"{head} refused"
    if "cycles" not in row:
        return f"{head} no Pallas kernel, {row['xla_cycles']:,} cycles by XLA's estimate"
    return (
        f"{head} {row['cycles']:,} cycles a step, {row['schedule_us']:.2f} us of"
        f" {row['hbm_us']:.2f} us HBM, {row['peak_us']:.2f} us peak"
    )


def _order(row: Mapping) -> tuple:
    """Ops by name, then chips; sorting is stable, so cases keep their order."""
    return row["op"], row["generation"]


def _goals(rows: Iterable[Mapping]) -> str:
    """The table of cases that have a goal."""
    lines = [
        _cells(_name(row), row["chip"], *_judged(row), _bottleneck(row))
        for row in rows
        if row["wanted"]
    ]
    if not lines:
        return ""
    head = "| case | chip | goal | result | | fullest slot |"
    return "\n".join(["## Goals", "", head, _rule(head), *lines])


def _judged(row: Mapping) -> tuple[str, str, str]:
    """Goal, result and verdict."""
    [(measure, bound)] = row["wanted"].items()
    goal = {"useful": f">= {bound:.0%} of the peak", "of_hbm": f"<= {bound:g} of the HBM time"}
    result = row.get({"useful": "useful", "of_hbm": "schedule_of_hbm"}[measure])
    if row["refusal"]:
        return goal[measure], "", "**not compiled**"
    if result is None:
        return goal[measure], "", "**no Pallas kernel**"
    met = result >= bound if measure == "useful" else result <= bound
    figure = f"{result:.1%}" if measure == "useful" else f"{result:.3f}"
    return goal[measure], figure, "met" if met else "**missed**"


def _tables(rows: Sequence[Mapping]) -> str:
    """The tables of an op: Pallas kernels first, then programs of XLA alone."""
    scheduled = [row for row in rows if "cycles" in row or row["refusal"]]
    plain = [row for row in rows if row not in scheduled]
    tables = []
    if scheduled:
        tables.append("\n".join([_HEAD, _rule(_HEAD), *map(_scheduled, scheduled)]))
    if plain:
        tables.append("\n".join([_XLA_HEAD, _rule(_XLA_HEAD), *map(_plain, plain)]))
    return "\n\n".join(tables)


def _scheduled(row: Mapping) -> str:
    head = _name(row), row["chip"], row["step"]
    if row["refusal"]:
        return _cells(*head, f"refused: {row['refusal'].replace('|', '/')}", *[""] * 11)
    counted = [kernel for kernel in row["kernels"] if kernel["counted"]]
    ratio = f"{row['schedule_of_hbm']:.2f}" if row["schedule_of_hbm"] else ""
    return _cells(
        *head,
        f"{row['cycles']:,}",
        f"{row['schedule_us']:.2f}",
        f"{row['hbm_us']:.2f}",
        f"{row['peak_us']:.2f}",
        ratio,
        f"{row['useful']:.0%}",
        " + ".join(f"{kernel['mxu']:.0%}" for kernel in counted),
        _bottleneck(row),
        " + ".join(str(kernel["spills"][0]) for kernel in counted),
        f"{row['vmem_bytes'] / 2**20:.1f}",
        f"{row['xla_cycles']:,}",
        f"{row['temporary_bytes'] / 2**20:.1f}",
    )


def _plain(row: Mapping) -> str:
    unknown = row["unknown_loops"]
    suffix = f", {unknown} loops of unknown length counted once" if unknown else ""
    return _cells(
        _name(row),
        row["chip"],
        f"{row['xla_cycles']:,}{suffix}",
        f"{row['xla_us'] / 1e3:.1f}",
        f"{row['roofline_us'] / 1e3:.1f}",
        "" if unknown else f"{row['roofline_us'] / row['xla_us']:.0%}",
        f"{row['temporary_bytes'] / 2**20:.1f}",
    )


def _name(row: Mapping) -> str:
    return f"{row['case']} (older)" if row.get("outdated") else row["case"]


def _bottleneck(row: Mapping) -> str:
    shares = []
    for kernel in row.get("kernels", ()):
        if kernel["counted"]:
            slot = max(kernel["slots"], key=kernel["slots"].get, default="")
            share = f"{slot} {kernel['slots'].get(slot, 0.0):.0%}"
            shares.append(f"none ({share})" if kernel["bottleneck"] == "latency" else share)
    return " + ".join(shares)


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(head: str) -> str:
    return "|" + "---|" * (head.count("|") - 1)
