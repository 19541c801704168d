"""`ivx compile --search`: which mesh, micro-batches and remat policy fit, and which is fastest.

Arithmetic (`ivx/aot/arithmetic.py`) orders what divides evenly and leaves out what cannot fit; the
first of these are compiled, and ranked by the time that is modelled from what the compiler said.
"""

import dataclasses

from ivx.errors import UserError

_GIB = 2**30
# What is to stay free for a run's other programs and for fragments.
SHARE = 0.9


def run(config, place: str, tries: int, asking) -> dict:
    """Compiles the likeliest settings and prints them, the best first."""
    from ivx.commands.compile import step

    found = likely(config, place, asking)
    if not found:
        raise UserError(
            f"no mesh, micro-batches and remat policy of {config.model.preset} fit on {place} by"
            " arithmetic; take a larger slice, or a chip with more memory"
        )
    rows = []
    for setting in found[:tries]:
        tried = applied(config, setting)
        result = step.ask(tried, place, asking)
        rows.append({"setting": dataclasses.asdict(setting)} | result)
        print(line(rows[-1]), flush=True)
    ranked = sorted(rows, key=rank)
    print("\nthe best first:")
    for row in ranked:
        print(line(row))
    return {"ok": fits(ranked[0]), "topology": place, "likely": len(found), "rows": ranked}


def likely(config, place: str, asking) -> list:
    """Settings that may fit, by arithmetic the fastest first."""
    from ivx.aot import arithmetic, topology

    chip, _ = topology.parse(place)
    return arithmetic.likely(work(config, asking), chip, topology.size(place), SHARE)


def work(config, asking):
    """What a step has to do, as `ivx.aot.arithmetic.Work`."""
    from ivx.aot import arithmetic
    from ivx.commands.compile import step

    data = config.data
    sizes, teacher = step.shapes(config, asking.teacher)
    return arithmetic.Work(
        spec=sizes,
        parameters=_parameters(sizes),
        packs=data.batch_packs,
        tokens=data.pack_tokens,
        patches=data.pack_patches,
        flops=step.load(config, asking)["flops"],
        trains=config.stage.name != "convert",
        teacher=teacher,
        teacher_parameters=_parameters(teacher) if teacher else 0,
    )


def _parameters(sizes) -> int:
    """How many a model of these sizes has."""
    import jax

    from ivx.models.definition import ModelDefinition

    return sum(leaf.size for leaf in jax.tree.leaves(ModelDefinition(sizes).abstract_params))


def applied(config, setting):
    """The config with a setting."""
    found = config.copy_and_resolve_references()
    found.mesh.update(replica=1, **setting.mesh)
    found.optim.accumulation = setting.accumulation
    found.model.remat = setting.remat
    return found


def fits(row: dict) -> bool:
    """Whether a step compiles and leaves a tenth of the memory."""
    return row["ok"] and row["memory"]["peak"] <= SHARE * row["capacity"]


def rank(row: dict) -> tuple:
    """Sorts what fits first, then by the mean of the bounds of its time."""
    time = row.get("estimate")
    return not fits(row), time["hidden"] + time["exposed"] if time else float("inf")


def line(row: dict) -> str:
    """A setting in one line."""
    setting = row["setting"]
    axes = " ".join(f"{axis}:{setting[axis]}" for axis in ("fsdp", "tensor", "context"))
    head = f"{axes} accumulation {setting['accumulation']} remat {setting['remat']:13s}"
    if row["refusal"]:
        return f"{head} refused: {row['refusal']}"
    peak, capacity, time = row["memory"]["peak"], row["capacity"], row.get("estimate")
    modelled = (
        f"{time['hidden']:.2f} to {time['exposed']:.2f} s, MFU {time['mfu_hidden']:.2f} to"
        f" {time['mfu_exposed']:.2f}"
        if time
        else "time unknown"
    )
    filled = f"{peak / _GIB:5.1f} of {capacity / _GIB:.1f} GiB ({peak / capacity:.0%})"
    return f"{head} {filled} {modelled}"
