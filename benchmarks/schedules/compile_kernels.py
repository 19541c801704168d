"""`python -m benchmarks schedules`: static schedules of kernels, next to their roofline.

With --out=page.md rows are stored in a JSON file, and an interrupted command continues. Cases are
lowered first, in about a second each, and compared with the stored digests and versions; only those
without a current row are compiled, each in a process of its own. A case that the compiler refuses,
or that exceeds --timeout, is a row with a sentence, and the command exits with 1. The page shows
all stored rows, also when --op, --case or --chip select a part.
"""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from absl import flags

from benchmarks import provenance
from benchmarks.schedules import cases, compiled_case, record, schedule, schedule_page
from ivx.aot import chips, library
from ivx.errors import UserError
from ivx.kernels.case import CHIPS, KernelCase

# Kernels of other libraries, and the packages besides JAX that they need.
_PEERS = "benchmarks.schedules.peers"
_PACKAGES = {_PEERS: ("tokamax",)}

# Module, case and chip.
Cell = tuple[str, KernelCase, chips.Chip]

SUMMARY = "Static schedules of the Pallas kernels, next to their roofline."
EXAMPLE = (
    "  python -m benchmarks schedules --op=latent_decode --chip=v6e,tpu7x\n"
    "  python -m benchmarks schedules --case=latent_decode-bf16-rows8-32768 --json"
)


def define_flags() -> None:
    """Defines the flags of this benchmark."""
    flags.DEFINE_float("timeout", 3600.0, "Seconds that one compilation may take.", lower_bound=1.0)
    flags.DEFINE_string("out", None, "Markdown file to write.")
    flags.DEFINE_string(
        "store", None, "JSON file of compiled cases; by default --out with the suffix .json."
    )
    flags.DEFINE_bool("again", False, "Compile all selected cases again.")
    flags.DEFINE_list("op", [], "Ops, folders of ivx/kernels; all by default.")
    flags.DEFINE_list("case", [], "Names of cases; all by default.")
    flags.DEFINE_list("chip", list(CHIPS), "TPU generations to compile for.")
    flags.DEFINE_bool("peers", False, "Also compile kernels of other libraries.")
    flags.DEFINE_list("cases_from", [], "Modules with cases(chip) to compile instead of ivx's.")


def run(flag_values: Any, words: Sequence[str] = ()) -> dict:
    """Compiles the selected cases and writes the page."""
    del words
    selected = _selected(flag_values)
    if not selected:
        raise UserError("nothing to compile: no selected op has a case for the selected chips")
    library.find()
    out = pathlib.Path(flag_values.out) if flag_values.out else None
    stored = _stored(flag_values, out)
    # The page shows all stored rows, whatever part is selected this time.
    cells = _all_cells(flag_values, stored) if out else selected
    if stored.rows:
        digests = compiled_case.lower_cases(cells, flag_values.timeout)
        stored.compare([(case.name, chip.name) for _, case, chip in cells], digests)
    notes = schedule_page.notes_of(out.read_text()) if out and out.exists() else ""
    rows = []
    for module, case, chip in selected:
        row = None if flag_values.again else stored.current(case.name, chip.name)
        if row is None:
            compiled = compiled_case.compile_case(module, case, chip, flag_values.timeout)
            row = _row(compiled) | {
                "versions": provenance.versions(*_PACKAGES.get(module, ())),
                "lowered": compiled.lowered,
            }
            stored.add(row)
            if out:
                out.write_text(_page(stored, cells, notes))
        rows.append(row)
        print(schedule_page.line(row), flush=True)
    page = _page(stored, cells, notes)
    if out:
        out.write_text(page)
    print(f"\n{page}")
    refused = [row for row in rows if row["refusal"]]
    for row in refused:
        print(f"refused: {row['case']} on {row['chip']}: {row['refusal']}")
    return {"ok": not refused, "rows": rows}


def _stored(flag_values: Any, out: pathlib.Path | None) -> record.Record:
    path = pathlib.Path(flag_values.store) if flag_values.store else None
    if path is None and out is not None:
        path = out.with_suffix(".json")
    stored = record.Record(path, provenance.versions(*_PACKAGES[_PEERS]))
    stored.read()
    return stored


def _page(stored: record.Record, cells: Sequence[Cell], notes: str) -> str:
    """The page of the stored rows of these cells."""
    rows = [stored.rows.get((case.name, chip.name)) for _, case, chip in cells]
    rows = [row for row in rows if row is not None]
    versions = provenance.versions()
    for row in rows:
        if not row.get("outdated"):
            versions |= row["versions"]
    return schedule_page.render(rows, versions, len(cells), notes)


def _selected(flag_values: Any) -> list[Cell]:
    chosen_chips = [chips.chip(name) for name in flag_values.chip]
    modules = [cases.module_of(op) for op in _ops(flag_values.op)]
    modules += [_PEERS] * flag_values.peers
    return _choose(flag_values.cases_from or modules, flag_values.case, chosen_chips)


def _all_cells(flag_values: Any, stored: record.Record) -> list[Cell]:
    """Every case on every chip; of other libraries too if selected, or if rows of them exist."""
    every_chip = list(chips.CHIPS.values())
    if flag_values.cases_from:
        return _choose(flag_values.cases_from, [], every_chip)
    ours = _choose([cases.module_of(op) for op in cases.ops()], [], every_chip)
    peers = _choose([_PEERS], [], every_chip)
    known = any((case.name, chip.name) in stored.rows for _, case, chip in peers)
    return ours + peers * (flag_values.peers or known)


def _ops(names: Sequence[str]) -> list[str]:
    """The named ops, or all.

    Raises:
      UserError: there is no such op.
    """
    known = cases.ops()
    for op in names:
        if op not in known:
            raise UserError(f"op {op!r} has no cases to compile; choose from {', '.join(known)}")
    return list(names) or known


def _choose(
    modules: Iterable[str], names: Sequence[str], chosen_chips: Sequence[chips.Chip]
) -> list[Cell]:
    """Every case of these modules for these chips, or those of these names.

    Raises:
      UserError: there is no such case, or no such module.
    """
    try:
        cells = [
            (module, case, chip)
            for module in modules
            for chip in chosen_chips
            for case in cases.of(module, chip.name)
        ]
    except ModuleNotFoundError as error:
        raise UserError(f"--cases_from: {error}") from error
    known = list(dict.fromkeys(case.name for _, case, _ in cells))
    for name in names:
        if name not in known:
            raise UserError(
                f"these ops and chips have no case {name!r}; choose from {', '.join(known)}"
            )
    return [cell for cell in cells if not names or cell[1].name in names]


def _row(compiled: compiled_case.Compiled) -> dict:
    """A case as plain values."""
    case, chip, step = compiled.case, compiled.chip, compiled.step
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
        # An estimate is per device, on v5p for both of its cores.
        "xla_us": 1e6 * compiled.xla_cycles / chip.clock,
        "unknown_loops": compiled.unknown_loops,
        "roofline_us": 1e6 * max(case.flops / chip.peak, case.hbm_bytes / chip.bandwidth),
    }
    if step is None:
        return row
    return row | {
        "cycles": step.cycles,
        "schedule_us": 1e6 * step.schedule,
        "hbm_us": 1e6 * step.hbm,
        "peak_us": 1e6 * step.compute,
        "useful": step.useful,
        "schedule_of_hbm": step.schedule / step.hbm if step.hbm else None,
        "done_of_useful": step.done,
        "vmem_bytes": max(kernel.vmem for kernel in step.kernels),
        "kernels": [_kernel(kernel) for kernel in step.kernels],
    }


def _kernel(kernel: schedule.KernelSchedule) -> dict:
    return {
        "name": kernel.name,
        "counted": kernel.counted,
        "cycles": kernel.cycles,
        "around": kernel.around,
        "sometimes": kernel.sometimes,
        "other_ways": list(kernel.other_ways),
        "mxu": kernel.matrix,
        "slots": kernel.slots,
        "bottleneck": kernel.bottleneck,
        "spills": list(kernel.spills),
        "pushes": kernel.pushes,
        "copied_bytes": kernel.copied,
        "vmem_bytes": kernel.vmem,
    }
