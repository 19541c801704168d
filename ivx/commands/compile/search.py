"""`ivx compile --search`: finds meshes, micro-batches and remat policies that fit, and ranks them.

Arithmetic (`ivx/aot/arithmetic.py`) orders the settings that divide evenly and drops those that
cannot fit. The first ones are compiled, and ranked by their estimated time.
"""

import dataclasses

import ml_collections

from ivx.aot.arithmetic import Setting
from ivx.aot.options import CompileOptions
from ivx.errors import UserError

_GIB = 2**30
# The rest of the memory stays free for a run's other programs and for fragmentation.
SHARE = 0.9


def run(
    config: ml_collections.ConfigDict, topology: str, tries: int, options: CompileOptions
) -> dict:
    """Compiles the most likely settings and prints them, the best first.

    Raises:
      UserError: no setting can fit.
    """
    from ivx.commands.compile import step

    candidates = likely(config, topology, options)
    if not candidates:
        raise UserError(
            f"no mesh, micro-batches and remat policy of {config.model.preset} can fit on"
            f" {topology}; take a larger slice, or a chip with more memory"
        )
    rows = []
    for setting in candidates[:tries]:
        result = step.compile_step(applied(config, setting), topology, options)
        rows.append({"setting": dataclasses.asdict(setting)} | result)
        print(line(rows[-1]), flush=True)
    ranked = sorted(rows, key=rank)
    print("\nthe best first:")
    for row in ranked:
        print(line(row))
    return {"ok": fits(ranked[0]), "topology": topology, "likely": len(candidates), "rows": ranked}


def likely(
    config: ml_collections.ConfigDict, topology: str, options: CompileOptions
) -> list[Setting]:
    """Settings that may fit, by estimated time."""
    from ivx import from_config
    from ivx.aot import arithmetic
    from ivx.aot import topology as topologies

    chip, _ = topologies.parse(topology)
    work = from_config.step_load.work(config, options)
    return arithmetic.likely(work, chip, topologies.size(topology), SHARE)


def applied(config: ml_collections.ConfigDict, setting: Setting) -> ml_collections.ConfigDict:
    """A copy of the config with a setting."""
    changed = config.copy_and_resolve_references()
    changed.mesh.update(replica=1, **setting.mesh)
    changed.optim.accumulation = setting.accumulation
    changed.model.remat = setting.remat
    return changed


def fits(row: dict) -> bool:
    """Whether a step compiles and leaves a tenth of the memory free."""
    return row["ok"] and row["memory"]["peak"] <= SHARE * row["capacity"]


def rank(row: dict) -> tuple[bool, float]:
    """Sort key: settings that fit first, then by the mean of the two time bounds."""
    time = row.get("estimate")
    return not fits(row), time["hidden"] + time["exposed"] if time else float("inf")


def line(row: dict) -> str:
    """A setting in one line."""
    setting = row["setting"]
    axes = " ".join(f"{axis}:{setting[axis]}" for axis in ("fsdp", "tensor", "context"))
    head = f"{axes} accumulation {setting['accumulation']} remat {setting['remat']:13s}"
    if row["refusal"]:
        return f"{head} does not compile: {row['refusal']}"
    peak, capacity, time = row["memory"]["peak"], row["capacity"], row.get("estimate")
    estimate = (
        f"{time['hidden']:.2f} to {time['exposed']:.2f} s, MFU {time['mfu_hidden']:.2f} to"
        f" {time['mfu_exposed']:.2f}"
        if time
        else "time unknown"
    )
    memory = f"{peak / _GIB:5.1f} of {capacity / _GIB:.1f} GiB ({peak / capacity:.0%})"
    return f"{head} {memory} {estimate}"
