"""The page of `ivx compile pods`: a table of cells, and for each what the compiler says of it."""

from collections.abc import Mapping

from ivx.aot import frames
from ivx.commands.compile import cells, search

_GIB = 2**30
_PLACES = 6
# What is known of a cell that was never compiled.
_NONE = {"refusal": "untested"}
_INTRODUCTION = """# Training steps of 8b, compiled for pods

Made by `ivx compile pods` with libtpu on a CPU. Memory, exchanges and kernels are what the
compiler plans. **Nothing was run on a TPU**, and times and MFU are modelled:

- XLA's own estimate of cycles for all that it compiles, at the clock that follows from the peak;
- Pallas kernels at {pace:.0%} of the pace of their static schedules ([kernels](kernels_tpu.md)).
  Of the peak, and of all FLOPs that they do, these leave to dense attention, forward and backward:
  with latent heads {latent};
  with grouped ones {grouped}
  (forward with a look at maxima, read by hand on v5p and v6e and counted alike on their kin);
- exchanges over the two links of one ring, first all hidden behind computation, then none;
- packs that are full, with one sample each: MFU counts what mathematics asks for, nothing twice.

v5p counts cores: v5p-128 has 64 chips. A device of tpu7x is half a chip. A step fits if its peak
leaves a tenth of the memory that the compiler has. `rl_gspo` and `opd` are their updates; *prefill*
reads all questions of a rollout, 65,536 tokens and 262,144 patches each, and *decode* draws all
answers, as long as they may be (`opd` draws an eighth as many). Beside them lie the optimizer's
moments, 8 bytes a parameter over all devices, and a teacher. Of these two, and of *matching*, a
step of the training that ends a conversion, memory alone is looked at. The teacher of `opd` has the
sizes of Qwen3-VL-32B, in float32. `convert` is its statistics pass over 8 packs, on one host; on
v5e these have 8,192 tokens, and not 65,536, which do not fit there. `sft_short` runs the program of
`cpt` with another schedule of the rate, and is not compiled apart. A row *of earlier sources* was
compiled before something changed that a step is built from, comments apart;
`ivx compile pods --outdated` compiles it again if the change reaches its program.
"""


def page(known: dict, ages: Mapping[str, str] | None = None) -> str:
    """What is known, as Markdown.

    Args:
      known: cells.
      ages: of those that would be made otherwise now: in what; of `made_from.ages`.
    """
    ages = ages or {}
    pace = next((c["estimate"]["kernel_pace"] for c in known.values() if c.get("estimate")), 0.9)
    lines = [
        _INTRODUCTION.format(pace=pace, latent=_paces("latent"), grouped=_paces("grouped")),
        "| stage | slice | mesh | micro-batches | remat | peak GiB a device | modelled s a step"
        " | modelled MFU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for stage in cells.CELLS:
        for topology in cells.TOPOLOGIES:
            age = ages.get(cells.key(stage, topology), "")
            lines.append(_row(stage, topology, cells.cell(known, stage, topology), age))
    lines += ["", "## What they are made of", ""]
    lines += [
        "GiB a device and GiB sent a step, and seconds of the modelled time. Temporaries are the"
        " peak without state, batch and results: the most that is alive at once. What the compiler"
        " gives as `temp_size_in_bytes` is larger, and no bound: of small programs compiled for"
        " v5e, one was accepted though with it everything exceeds the memory by 2%, and they were"
        " refused from where the peak exceeds it. Gaps of the heap are not in the peak, 3% of one"
        " of them; the tenth that is to stay free is for these. Loops whose length the program does"
        " not tell are counted once: their cycles are too few.",
        "",
        "| stage | slice | state and batch | temporaries | cycles s | kernels s | exchange by axes"
        " | Pallas kernels | loops counted once | compiled in |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    compiled = [
        (stage, topology, known[cells.key(stage, topology)])
        for stage in cells.CELLS
        for topology in cells.TOPOLOGIES
        if stage not in cells.SAME and not known.get(cells.key(stage, topology), _NONE)["refusal"]
    ]
    lines += [_detail(*cell) for cell in compiled]
    lines += [
        "",
        f"## The {_PLACES} functions that most of the cycles are put down to",
        "",
        "What XLA makes of each, by its estimate, in seconds: forward, with what is of the"
        " optimizer or of no line known; made again; and backward.",
        "",
        "| stage | slice | function | " + " | ".join(frames.PASSES) + " |",
        "|---|---|---|---|---|---|",
    ]
    lines += [line for cell in compiled for line in _places(*cell)]
    return "\n".join(lines) + "\n"


def _places(stage: str, topology: str, found: dict) -> list[str]:
    program, time = found["program"] or {}, found.get("estimate")
    if not time or not program.get("places"):
        return []
    clock = program["cycles"] / time["cycles"]
    most = sorted(program["places"].items(), key=lambda one: -sum(one[1].values()))[:_PLACES]
    return [
        f"{_head(stage, topology)} {place} | "
        + " | ".join(f"{spent.get(one, 0) / clock:.2f}" for one in frames.PASSES)
        + " |"
        for place, spent in most
    ]


def _paces(heads: str) -> str:
    """What schedules leave of the peak of every chip."""
    from ivx.aot import chips, estimate

    kernels = ("dense_attention", "dense_attention_backward")
    return ", ".join(
        " and ".join(f"{estimate.kernel_share(chip, one, heads, pace=1.0):.0%}" for one in kernels)
        + f" on {chip.name}"
        for chip in chips.CHIPS.values()
    )


def _head(stage: str, topology: str) -> str:
    place = cells.place_of(stage, topology)
    return f"| {stage} | {cells.NAMES[topology] if place == topology else place} |"


def _row(stage: str, topology: str, found: dict | None, age: str) -> str:
    head = _head(stage, topology)
    if found is None:
        return f"{head} | | | untested | | |"
    mesh = " x ".join(f"{axis} {n}" for axis, n in found.get("mesh", {}).items() if n > 1)
    head += f" {mesh} | {found['accumulation']} | {found['remat']} |"
    aged = f", *{age}*" if age else ""
    if found["refusal"]:
        # A cell that took too long, or whose compiler died, was not refused.
        said = "does not compile" if found.get("answered", True) else "no answer"
        return f"{head} {said}: {found['refusal'].replace('|', '/')}{aged} | | |"
    peak, capacity = found["memory"]["peak"], found["capacity"]
    time = found.get("estimate")
    modelled = (
        f"{time['hidden']:.1f} to {time['exposed']:.1f} | {time['mfu_hidden']:.2f} to"
        f" {time['mfu_exposed']:.2f}"
        if time
        else "unknown | unknown"
    )
    verdict = "" if search.fits(found) else ", **too much**"
    return (
        f"{head} {peak / _GIB:.1f} of {capacity / _GIB:.1f} ({peak / capacity:.0%}){verdict}"
        f"{aged} | {modelled} |"
    )


def _detail(stage: str, topology: str, found: dict) -> str:
    memory, time, program = found["memory"], found.get("estimate"), found["program"]
    heap = memory["peak"] - memory["arguments"] - memory["results"]
    sent: dict[str, float] = {}
    for one in (program or {}).get("collectives", ()):
        sent[one["axes"]] = sent.get(one["axes"], 0.0) + one["bytes"]
    exchange = ", ".join(
        f"{axes} {size / _GIB:.1f}" + (f" ({time['exchange'][axes]:.2f} s)" if time else "")
        for axes, size in sorted(sent.items(), key=lambda one: -one[1])
        if size >= 0.05 * _GIB
    )
    kernels = ", ".join(f"{name} x{n}" for name, n in (program or {}).get("kernels", {}).items())
    loops = program["unknown_loops"] if program else "unknown"
    seconds = f"{time['cycles']:.2f} | {time['kernels']:.2f}" if time else "unknown | unknown"
    return (
        f"{_head(stage, topology)} {memory['arguments'] / _GIB:.2f}"
        f" | {heap / _GIB:.2f} | {seconds} | {exchange} | {kernels} | {loops}"
        f" | {found['lower_seconds'] + found['compile_seconds']:.0f} s |"
    )
