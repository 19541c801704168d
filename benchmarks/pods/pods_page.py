"""The page of `python -m benchmarks pods`: a table of cells, and what each program consists of."""

from collections.abc import Mapping

from benchmarks.pods import grid
from ivx.aot import frames
from ivx.commands.compile import search

_GIB = 2**30
# Functions listed per program.
_FUNCTIONS = 6
# The row of a cell that was never compiled.
_UNTESTED = {"refusal": "untested"}
_INTRODUCTION = """# Training steps of 8b, compiled for pods

Made by `python -m benchmarks pods` with libtpu on a CPU. Memory, collectives and kernels are what
the compiler plans. **Nothing was run on a TPU**; times and MFU are modelled:

- XLA's own cycle estimates for everything that it compiles, at the clock that follows from the
  peak;
- Pallas kernels at {pace:.0%} of the pace of their static schedules ([kernels](kernels_tpu.md)).
  For dense attention these reach the following fractions of the peak, forward and backward,
  counting all FLOPs that the kernels do:
  with latent heads {latent};
  with grouped heads {grouped}
  (the forward pass includes the check of maxima, read by hand on v5p and v6e and assumed to cost
  the same on v5e and tpu7x);
- collectives over the two links of one ring, first all overlapped with computation, then none;
- full packs of one sample each. MFU counts the FLOPs that the mathematics needs, without
  recomputation.

The name v5p-128 counts cores; the slice has 64 chips. A device of tpu7x is half a chip. A step fits
if its peak leaves a tenth of the available memory free. The rows `rl_gspo` and `opd` are the policy
updates. *prefill* reads all questions of a rollout, 65,536 tokens and 262,144 patches each;
*decode* generates all answers at their maximum length (`opd` generates an eighth as many). Next to
them the optimizer's moments, 8 bytes a parameter over all devices, and a teacher stay in memory.
For these two and for *matching*, a step of the training that ends a conversion, only memory is
reported. The teacher of `opd` has the sizes of Qwen3-VL-32B, in float32. `convert` is its
statistics pass over 8 packs, on one host; on v5e these have 8,192 tokens, since packs of 65,536 do
not fit. `sft_short` runs the program of `cpt` with another learning-rate schedule and is not
compiled separately. A row marked *of an earlier program* or *of other versions* was compiled before
the lowered program or the compiler changed; `python -m benchmarks pods --outdated` compiles it
again.
"""


def page(rows: Mapping[str, dict]) -> str:
    """The stored rows as Markdown."""
    estimates = (row["estimate"] for row in rows.values() if row.get("estimate"))
    pace = next((estimate["kernel_pace"] for estimate in estimates), 0.9)
    lines = [
        _INTRODUCTION.format(pace=pace, latent=_paces("latent"), grouped=_paces("grouped")),
        "| stage | slice | mesh | micro-batches | remat | peak GiB a device | modelled s a step"
        " | modelled MFU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        _row(stage, topology, grid.cell(rows, stage, topology))
        for stage in grid.CELLS
        for topology in grid.TOPOLOGIES
    ]
    lines += ["", "## Breakdown", ""]
    lines += [
        "GiB a device, GiB sent a step, and seconds of the modelled time. Temporaries are the peak"
        " without state, batch and results. The compiler's `temp_size_in_bytes` is larger and no"
        " bound: a small program for v5e was accepted although with it the total exceeds the memory"
        " by 2%; programs were refused from where the peak exceeds the memory. The peak does not"
        " include gaps in the heap, 3% of one of these programs; the tenth that must stay free"
        " covers them. A loop whose trip count the program does not state is counted once, so its"
        " cycles are too few.",
        "",
        "| stage | slice | state and batch | temporaries | cycles s | kernels s | collectives by"
        " axes | Pallas kernels | loops counted once | compiled in |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    compiled = [
        (stage, topology, rows[grid.key(stage, topology)])
        for stage in grid.CELLS
        for topology in grid.TOPOLOGIES
        if stage not in grid.SAME and not rows.get(grid.key(stage, topology), _UNTESTED)["refusal"]
    ]
    lines += [_detail(*cell) for cell in compiled]
    lines += [
        "",
        f"## The {_FUNCTIONS} functions with the most cycles",
        "",
        "XLA's estimate for each, in seconds: the forward pass (with the optimizer and instructions"
        " of unknown origin), recomputation, and the backward pass.",
        "",
        "| stage | slice | function | " + " | ".join(frames.PASSES) + " |",
        "|---|---|---|---|---|---|",
    ]
    lines += [line for cell in compiled for line in _functions(*cell)]
    return "\n".join(lines) + "\n"


def _functions(stage: str, topology: str, row: Mapping) -> list[str]:
    """The functions of a program with the most cycles."""
    program, time = row["program"] or {}, row.get("estimate")
    if not time or not program.get("places"):
        return []
    clock = program["cycles"] / time["cycles"]
    by_cycles = sorted(program["places"].items(), key=lambda item: -sum(item[1].values()))
    return [
        f"{_head(stage, topology)} {function} | "
        + " | ".join(f"{cycles.get(part, 0) / clock:.2f}" for part in frames.PASSES)
        + " |"
        for function, cycles in by_cycles[:_FUNCTIONS]
    ]


def _paces(heads: str) -> str:
    """Fractions of the peak that the schedules of dense attention reach on every chip."""
    from ivx.aot import chips, estimate

    kernels = ("dense_attention", "dense_attention_backward")
    return ", ".join(
        " and ".join(
            f"{estimate.kernel_share(chip, kernel, heads, pace=1.0):.0%}" for kernel in kernels
        )
        + f" on {chip.name}"
        for chip in chips.CHIPS.values()
    )


def _head(stage: str, topology: str) -> str:
    place = grid.place_of(stage, topology)
    return f"| {stage} | {grid.NAMES[topology] if place == topology else place} |"


def _row(stage: str, topology: str, row: Mapping | None) -> str:
    head = _head(stage, topology)
    if row is None:
        return f"{head} | | | untested | | |"
    mesh = " x ".join(f"{axis} {size}" for axis, size in row.get("mesh", {}).items() if size > 1)
    head += f" {mesh} | {row['accumulation']} | {row['remat']} |"
    outdated = f", *{row['outdated']}*" if row.get("outdated") else ""
    if row["refusal"]:
        # After a time-out or a crash the compiler has not refused.
        verdict = "does not compile" if row.get("answered", True) else "no answer"
        return f"{head} {verdict}: {row['refusal'].replace('|', '/')}{outdated} | | |"
    peak, capacity = row["memory"]["peak"], row["capacity"]
    time = row.get("estimate")
    modelled = (
        f"{time['hidden']:.1f} to {time['exposed']:.1f} | {time['mfu_hidden']:.2f} to"
        f" {time['mfu_exposed']:.2f}"
        if time
        else "unknown | unknown"
    )
    verdict = "" if search.fits(row) else ", **too much**"
    return (
        f"{head} {peak / _GIB:.1f} of {capacity / _GIB:.1f} ({peak / capacity:.0%}){verdict}"
        f"{outdated} | {modelled} |"
    )


def _detail(stage: str, topology: str, row: Mapping) -> str:
    memory, time, program = row["memory"], row.get("estimate"), row["program"]
    heap = memory["peak"] - memory["arguments"] - memory["results"]
    sent: dict[str, float] = {}
    for collective in (program or {}).get("collectives", ()):
        axes = collective["axes"]
        sent[axes] = sent.get(axes, 0.0) + collective["bytes"]
    collectives = ", ".join(
        f"{axes} {size / _GIB:.1f}" + (f" ({time['exchange'][axes]:.2f} s)" if time else "")
        for axes, size in sorted(sent.items(), key=lambda item: -item[1])
        if size >= 0.05 * _GIB
    )
    kernels = ", ".join(f"{name} x{n}" for name, n in (program or {}).get("kernels", {}).items())
    loops = program["unknown_loops"] if program else "unknown"
    seconds = f"{time['cycles']:.2f} | {time['kernels']:.2f}" if time else "unknown | unknown"
    return (
        f"{_head(stage, topology)} {memory['arguments'] / _GIB:.2f}"
        f" | {heap / _GIB:.2f} | {seconds} | {collectives} | {kernels} | {loops}"
        f" | {row['lower_seconds'] + row['compile_seconds']:.0f} s |"
    )
