"""`ivx compile kernel`: the static schedule of kernels beside their roofline.

Every case is compiled in a process of its own. A case that the compiler refuses is a row with its
sentence, and the command ends with 1.
"""

import importlib.metadata
import pathlib

from absl import flags

from ivx.errors import UserError
from ivx.kernels.case import CHIPS

# What columns mean; printed under every table.
LEGEND = (
    "cycles a step: of the sections that multiply, and of the loop around them. schedule: at the"
    " chip's clock, without waiting for memory. HBM, peak: the same step by bandwidth and by peak"
    " of a core. useful: share of the peak that is left when the slower of schedule and HBM sets"
    " the pace. MXU: share of its capacity filled while multiplying. spills: registers stored and"
    " loaded again. All from libtpu's compiler; nothing here was timed on a TPU."
)


def define_flags() -> None:
    flags.DEFINE_list("op", [], "compile kernel: ops, folders of ivx/kernels; all of them if none.")
    flags.DEFINE_list("case", [], "compile kernel: names of cases; all of them if none.")
    flags.DEFINE_list("chip", list(CHIPS), "compile kernel: generations of TPU.")
    flags.DEFINE_bool("peers", False, "compile kernel: kernels of other libraries beside ours.")
    flags.DEFINE_list(
        "cases_from", [], "compile kernel: modules with cases(chip) to compile instead of ivx's."
    )


def run(given) -> dict:
    from ivx.aot import chips, kernel, library

    wanted = [chips.chip(name) for name in given.chip]
    chosen = _choose(_modules(given), given.case, wanted)
    if not chosen:
        raise UserError("nothing to compile: no op that is asked for has a case for these chips")
    library.find()
    rows, sentences = [], []
    for module, case, chip in chosen:
        compiled = kernel.compile_case(module, case, chip, given.timeout)
        rows.append(_row(compiled))
        print(_line(rows[-1]), flush=True)
        if compiled.refusal:
            sentences.append(f"{case.name} on {chip.name}: {compiled.refusal}")
        # A long matrix may be cut off: what is known is written at once.
        page = _page(rows)
        if given.out:
            pathlib.Path(given.out).write_text(page)
    print(f"\n{page}")
    for sentence in sentences:
        print(f"refused: {sentence}")
    return {"ok": not sentences, "rows": rows}


def _page(rows: list[dict]) -> str:
    """As Markdown."""
    packages = ("jax", "jaxlib", "libtpu", "tokamax")
    versions = ", ".join(f"{name} {found}" for name in packages if (found := _version(name)))
    return (
        "# Kernels for TPUs, by their static schedules\n\n"
        "Made by `make kernels-tpu`. All figures are the compiler's; none is a clock's.\n"
        f"Compiled with {versions}.\n\n{_table(rows)}\n\n{LEGEND}\n"
    )


def _version(package: str) -> str:
    """Of a package; of libtpu, which is not installed where it is used, as it is pinned."""
    from ivx.aot import library

    if package == "libtpu" and library.pinned():
        return library.pinned()
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _modules(given) -> list[str]:
    from ivx.aot import cases

    if given.cases_from:
        return given.cases_from
    peers, known = ["ivx.aot.peers"] * given.peers, cases.ops()
    for op in given.op:
        if op not in known:
            raise UserError(f"no op {op!r} has cases to compile; there are {', '.join(known)}")
    return [*(cases.module_of(op) for op in given.op or known), *peers]


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
    case, found = compiled.case, compiled.step
    row = {
        "case": case.name,
        "op": case.op,
        "chip": compiled.chip.name,
        "step": case.per_block,
        "refusal": compiled.refusal,
        "compile_seconds": round(compiled.seconds, 1),
        "temporary_bytes": compiled.temporaries,
        "xla_cycles": compiled.xla_cycles,
        "roofline_us": 1e6 * max(case.flops / compiled.chip.peak,
                                 case.hbm_bytes / compiled.chip.bandwidth),
    }  # fmt: skip
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


def _line(row: dict) -> str:
    """A row as progress."""
    if row["refusal"]:
        return f"{row['chip']:6s} {row['case']}: refused"
    if "cycles" not in row:
        return f"{row['chip']:6s} {row['case']}: compiled, no Pallas kernel in it"
    return (
        f"{row['chip']:6s} {row['case']}: {row['cycles']:,} cycles a step,"
        f" {row['schedule_us']:.2f} us of {row['hbm_us']:.2f} us HBM, {row['peak_us']:.2f} us peak"
    )


def _table(rows: list[dict]) -> str:
    """As Markdown: a line a case, and one more a kernel where it has several."""
    lines = [
        "| case | chip | step | cycles | schedule us | HBM us | peak us | schedule/HBM | useful"
        " | MXU | fullest slot | spills | VMEM MiB | temporaries MiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        head = f"| {row['case']} | {row['chip']} | {row['step']} |"
        if row["refusal"]:
            lines.append(f"{head} refused: {row['refusal'].replace('|', '/')} |" + " |" * 10)
            continue
        temporaries = f"{row['temporary_bytes'] / 2**20:.1f}"
        if "cycles" not in row:
            lines.append(
                f"{head} no Pallas kernel; XLA {row['xla_cycles']:,}" + " |" * 10
                + f" {temporaries} |"
            )  # fmt: skip
            continue
        counted = [one for one in row["kernels"] if one["counted"]]
        ratio = f"{row['schedule_of_hbm']:.2f}" if row["schedule_of_hbm"] else ""
        lines.append(
            f"{head} {row['cycles']:,} | {row['schedule_us']:.2f} | {row['hbm_us']:.2f}"
            f" | {row['peak_us']:.2f} | {ratio} | {row['useful']:.0%}"
            f" | {' + '.join(_share(one['mxu']) for one in counted)}"
            f" | {' + '.join(_fullest(one) for one in counted)}"
            f" | {' + '.join(str(one['spills'][0]) for one in counted)}"
            f" | {row['vmem_bytes'] / 2**20:.1f} | {temporaries} |"
        )
    return "\n".join(lines)


def _share(value: float) -> str:
    return f"{value:.0%}"


def _fullest(kernel: dict) -> str:
    slot = max(kernel["slots"], key=kernel["slots"].get, default="")
    share = _share(kernel["slots"].get(slot, 0.0))
    return f"{slot} {share}" if kernel["bottleneck"] != "latency" else f"none ({slot} {share})"
