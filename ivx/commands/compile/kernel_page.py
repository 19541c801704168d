"""The page that `ivx compile kernel` writes: a table an op, and what was wanted beside it."""

import itertools

NOTES = "## Notes"
_OLDER = "from before a change: of the kernel, of the compiler, or of how it is read"
LEGEND = """\
- **cycles**: of a step; of the sections that multiply, and of the loop around them, in a visit that
  needs no mask. **schedule**: these at the chip's clock, without waiting for memory: a lower bound.
- **HBM**, **peak**: the same step by the bandwidth and by the peak of a core.
- **useful**: share of the peak that is left when the slower of schedule and HBM sets the pace.
- **MXU**: share of its capacity filled while multiplying. **fullest slot**: of what there are most
  instructions; "none" where they wait for one another. With `+`: of several kernels.
- **spills**: registers stored and loaded again for want of room.
- **XLA**: the compiler's estimate of what surrounds the kernels, in cycles of a whole call, loops
  counted as often as they turn."""
_HEAD = (
    "| case | chip | step | cycles | schedule us | HBM us | peak us | schedule/HBM | useful | MXU"
    " | fullest slot | spills | VMEM MiB | XLA | temporaries MiB |"
)
_XLA_HEAD = "| case | chip | cycles of a call | ms | at the peak, ms | useful | temporaries MiB |"


def render(rows: list[dict], versions: dict[str, str], cells: int, notes: str = "") -> str:
    """As Markdown.

    Args:
      rows: of cases, as `kernel.py` makes them; `older` where one would be made anew.
      versions: of what compiled them.
      cells: how many rows there are to be.
      notes: from NOTES on, kept from an older page.
    """
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    missing, older = cells - len(rows), sum(row["older"] for row in rows)
    parts = [
        "# Kernels for TPUs, by their static schedules",
        "Made by `make kernels-tpu`. All figures are the compiler's; none is a clock's.\n"
        f"Compiled with {named}.",
        f"**{missing} of {cells} cells are not compiled yet.**" if missing else "",
        f"**{older} of {cells} cells, marked (older), are {_OLDER}.**" if older else "",
        _wanted(rows),
        *(
            f"## {op}\n\n{_tables(list(group))}"
            for op, group in itertools.groupby(sorted(rows, key=_order), lambda row: row["op"])
        ),
        f"## Columns\n\n{LEGEND}",
        notes,
    ]
    return "\n\n".join(part for part in parts if part).rstrip() + "\n"


def notes_of(page: str) -> str:
    """What people wrote under a page's heading for notes."""
    place = page.find(f"\n{NOTES}\n")
    return page[place + 1 :] if place >= 0 else ""


def line(row: dict) -> str:
    """A row as progress."""
    head = f"{row['chip']:6s} {row['case']}:"
    if row["refusal"]:
        return f"{head} refused"
    if "cycles" not in row:
        return f"{head} no Pallas kernel in it, {row['xla_cycles']:,} cycles by XLA's estimate"
    return (
        f"{head} {row['cycles']:,} cycles a step, {row['schedule_us']:.2f} us of"
        f" {row['hbm_us']:.2f} us HBM, {row['peak_us']:.2f} us peak"
    )


def _order(row: dict) -> tuple:
    """Ops by name, then chips, each with its cases as they came (sorting is stable)."""
    return row["op"], row["generation"]


def _wanted(rows: list[dict]) -> str:
    """The figures that were set as goals."""
    lines = [
        _cells(_name(row), row["chip"], *_judged(row), _bottleneck(row))
        for row in rows
        if row["wanted"]
    ]
    if not lines:
        return ""
    head = "| case | chip | wanted | found | | fullest slot |"
    return "\n".join(["## What was wanted", "", head, _rule(head), *lines])


def _judged(row: dict) -> tuple[str, str, str]:
    [(measure, bound)] = row["wanted"].items()
    goal = {"useful": f">= {bound:.0%} of the peak", "of_hbm": f"<= {bound:g} of the HBM time"}
    found = row.get({"useful": "useful", "of_hbm": "schedule_of_hbm"}[measure])
    if row["refusal"]:
        return goal[measure], "", "**not compiled**"
    if found is None:
        return goal[measure], "", "**no Pallas kernel**"
    good = found >= bound if measure == "useful" else found <= bound
    said = f"{found:.1%}" if measure == "useful" else f"{found:.3f}"
    return goal[measure], said, "met" if good else "**missed**"


def _tables(rows: list[dict]) -> str:
    """Of an op: its Pallas kernels, then what XLA alone compiles."""
    scheduled = [row for row in rows if "cycles" in row or row["refusal"]]
    plain = [row for row in rows if row not in scheduled]
    tables = []
    if scheduled:
        tables.append("\n".join([_HEAD, _rule(_HEAD), *map(_scheduled, scheduled)]))
    if plain:
        tables.append("\n".join([_XLA_HEAD, _rule(_XLA_HEAD), *map(_plain, plain)]))
    return "\n\n".join(tables)


def _scheduled(row: dict) -> str:
    head = _name(row), row["chip"], row["step"]
    if row["refusal"]:
        return _cells(*head, f"refused: {row['refusal'].replace('|', '/')}", *[""] * 11)
    counted = [one for one in row["kernels"] if one["counted"]]
    ratio = f"{row['schedule_of_hbm']:.2f}" if row["schedule_of_hbm"] else ""
    return _cells(
        *head,
        f"{row['cycles']:,}",
        f"{row['schedule_us']:.2f}",
        f"{row['hbm_us']:.2f}",
        f"{row['peak_us']:.2f}",
        ratio,
        f"{row['useful']:.0%}",
        " + ".join(f"{one['mxu']:.0%}" for one in counted),
        _bottleneck(row),
        " + ".join(str(one["spills"][0]) for one in counted),
        f"{row['vmem_bytes'] / 2**20:.1f}",
        f"{row['xla_cycles']:,}",
        f"{row['temporary_bytes'] / 2**20:.1f}",
    )


def _plain(row: dict) -> str:
    unknown = row["unknown_loops"]
    more = f", {unknown} loops of unknown length counted once" if unknown else ""
    return _cells(
        _name(row),
        row["chip"],
        f"{row['xla_cycles']:,}{more}",
        f"{row['xla_us'] / 1e3:.1f}",
        f"{row['roofline_us'] / 1e3:.1f}",
        "" if unknown else f"{row['roofline_us'] / row['xla_us']:.0%}",
        f"{row['temporary_bytes'] / 2**20:.1f}",
    )


def _name(row: dict) -> str:
    return f"{row['case']} (older)" if row["older"] else row["case"]


def _bottleneck(row: dict) -> str:
    found = []
    for one in row.get("kernels", ()):
        if one["counted"]:
            slot = max(one["slots"], key=one["slots"].get, default="")
            share = f"{slot} {one['slots'].get(slot, 0.0):.0%}"
            found.append(f"none ({share})" if one["bottleneck"] == "latency" else share)
    return " + ".join(found)


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(head: str) -> str:
    return "|" + "---|" * (head.count("|") - 1)
