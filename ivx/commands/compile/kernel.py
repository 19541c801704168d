"""`ivx compile kernel`: the static schedule of kernels beside their roofline.

Every case is compiled in a process of its own. A case that the compiler refuses, or that takes
longer than --timeout, is a row with a sentence, and the command ends with 1. With --out=page.md
rows are kept in page.json, and a command that was cut off goes on where it stopped. The page shows
all that is kept, also when --op, --case or --chip asks for a part of it.
"""

import pathlib

from absl import flags

from ivx.commands.compile import kernel_page
from ivx.errors import UserError
from ivx.kernels.case import CHIPS

# Where kernels of other libraries are, and whose they are besides JAX's.
_PEERS = "ivx.aot.peers"
_PACKAGES = {_PEERS: ("tokamax",)}


def define_flags() -> None:
    flags.DEFINE_list("op", [], "compile kernel: ops, folders of ivx/kernels; all of them if none.")
    flags.DEFINE_list("case", [], "compile kernel: names of cases; all of them if none.")
    flags.DEFINE_list("chip", list(CHIPS), "compile kernel: generations of TPU.")
    flags.DEFINE_bool("peers", False, "compile kernel: kernels of other libraries beside ours.")
    flags.DEFINE_list(
        "cases_from", [], "compile kernel: modules with cases(chip) to compile instead of ivx's."
    )


def run(given) -> dict:
    from ivx.aot import cases, chips, kernel, library, record

    wanted = [chips.chip(name) for name in given.chip]
    ours = [cases.module_of(op) for op in _ops(given.op)]
    chosen = _choose(given.cases_from or [*ours, *[_PEERS] * given.peers], given.case, wanted)
    if not chosen:
        raise UserError("nothing to compile: no op that is asked for has a case for these chips")
    library.find()
    out = pathlib.Path(given.out) if given.out else None
    versions = library.versions(*record.COMPILERS, *_PACKAGES[_PEERS])
    kept = record.Record(out.with_suffix(".json") if out else None, versions)
    kept.read()
    # A page shows all that is kept beside it, whatever of it is asked for this time.
    cells = _all_cells(given, kept) if out else chosen
    notes = kernel_page.notes_of(out.read_text()) if out and out.exists() else ""
    rows = []
    for module, case, chip in chosen:
        row = None if given.again else kept.find(module, case.name, chip.name)
        if row is None:
            row = _row(kernel.compile_case(module, case, chip, given.timeout))
            row["versions"] = library.versions(*record.COMPILERS, *_PACKAGES.get(module, ()))
            kept.keep(module, row)
            if out:
                out.write_text(_page(kept, cells, notes))
        rows.append(row)
        print(kernel_page.line(row), flush=True)
    page = _page(kept, cells, notes)
    if out:
        out.write_text(page)
    print(f"\n{page}")
    refused = [row for row in rows if row["refusal"]]
    for row in refused:
        print(f"refused: {row['case']} on {row['chip']}: {row['refusal']}")
    return {"ok": not refused, "rows": rows}


def _page(kept, cells: list[tuple], notes: str) -> str:
    """Of what is kept of these cells."""
    from ivx.aot import library, record

    rows, versions = [], library.versions(*record.COMPILERS)
    for module, case, chip in cells:
        row = kept.rows.get((case.name, chip.name))
        if row is None:
            continue
        current = bool(row["refusal"] or kept.find(module, case.name, chip.name))
        rows.append(row | {"older": not current})
        if current:
            versions |= row["versions"]
    return kernel_page.render(rows, versions, len(cells), notes)


def _all_cells(given, kept) -> list[tuple]:
    """Every case on every chip; of other libraries if they are asked for, or were before."""
    from ivx.aot import cases, chips

    every = list(chips.CHIPS.values())
    if given.cases_from:
        return _choose(given.cases_from, [], every)
    ours = _choose([cases.module_of(op) for op in cases.ops()], [], every)
    peers = _choose([_PEERS], [], every)
    shown = given.peers or any((case.name, chip.name) in kept.rows for _, case, chip in peers)
    return ours + peers * shown


def _ops(names: list[str]) -> list[str]:
    """Ops that are asked for; all, if none is named.

    Raises:
      UserError: no such op.
    """
    from ivx.aot import cases

    known = cases.ops()
    for op in names:
        if op not in known:
            raise UserError(f"no op {op!r} has cases to compile; there are {', '.join(known)}")
    return names or known


def _choose(modules: list[str], names: list[str], wanted: list) -> list[tuple]:
    """Module, case and chip of everything to compile.

    Raises:
      UserError: no such case, or no such module.
    """
    from ivx.aot import cases

    try:
        found = [
            (module, case, chip)
            for module in modules
            for chip in wanted
            for case in cases.of(module, chip.name)
        ]
    except ModuleNotFoundError as error:
        raise UserError(f"--cases_from: {error}") from error
    known = list(dict.fromkeys(case.name for _, case, _ in found))
    for name in names:
        if name not in known:
            raise UserError(f"there is no case {name!r} for these ops and chips; there are:"
                            f" {', '.join(known)}")  # fmt: skip
    return [one for one in found if not names or one[1].name in names]


def _row(compiled) -> dict:
    """A case as plain numbers."""
    case, chip, found = compiled.case, compiled.chip, compiled.step
    row = {
        "case": case.name,
        "op": case.op,
        "chip": chip.name,
        "generation": CHIPS.index(chip.name),
        "wanted": case.wanted,
        "step": case.per_block,
        "refusal": compiled.refusal,
        "compile_seconds": round(compiled.seconds, 1),
        "temporary_bytes": compiled.temporaries,
        "xla_cycles": compiled.xla_cycles,
        # An estimate is of a device, of v5p for both of its cores.
        "xla_us": 1e6 * compiled.xla_cycles / chip.clock,
        "unknown_loops": compiled.unknown_loops,
        "roofline_us": 1e6 * max(case.flops / chip.peak, case.hbm_bytes / chip.bandwidth),
    }
    if found is None:
        return row
    return row | {
        "cycles": found.cycles,
        "schedule_us": 1e6 * found.schedule,
        "hbm_us": 1e6 * found.hbm,
        "peak_us": 1e6 * found.compute,
        "useful": found.useful,
        "schedule_of_hbm": found.schedule / found.hbm if found.hbm else None,
        "done_of_useful": found.done,
        "vmem_bytes": max(one.vmem for one in found.kernels),
        "kernels": [
            {
                "name": one.name,
                "counted": one.counted,
                "cycles": one.cycles,
                "around": one.around,
                "sometimes": one.sometimes,
                "other_ways": list(one.other_ways),
                "mxu": one.matrix,
                "slots": one.slots,
                "bottleneck": one.bottleneck,
                "spills": list(one.spills),
                "pushes": one.pushes,
                "copied_bytes": one.copied,
                "vmem_bytes": one.vmem,
            }
            for one in found.kernels
        ],
    }
