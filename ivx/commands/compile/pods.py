"""`ivx compile pods`: every stage of 8b on the pods it is meant for, as the compiler says.

A cell is a stage on a topology with a mesh. What was compiled is kept in a JSON file beside the
page, so that a run that is cut off, or takes some cells only, leaves the others as they were; a
cell that was never compiled is "untested".
"""

import json
import pathlib
import types

from absl import flags

_GIB = 2**30
# Stage: experiment, and the topologies with the mesh to compile. Packs of 65,536 tokens lie whole
# on a device where there are as many packs as devices; longer ones are cut along `context`.
CELLS: dict[str, dict[str, tuple[str, ...]]] = {
    "cpt": {
        "v5p:4x4x4": ("fsdp:64", "optim.accumulation=2"),
        "v6e:16x16": ("fsdp:128,context:2",),
        "v5e:16x16": ("fsdp:64,context:4", "optim.accumulation=2"),
        "tpu7x:4x4x4": ("fsdp:128",),
    },
    "sft_short": {
        "v5p:4x4x4": ("fsdp:64", "optim.accumulation=2"),
        "v6e:16x16": ("fsdp:128,context:2",),
        "v5e:16x16": ("fsdp:64,context:4", "optim.accumulation=2"),
        "tpu7x:4x4x4": ("fsdp:128",),
    },
    "sft_long": {
        "v5p:4x4x4": ("fsdp:8,context:8",),
        "v6e:16x16": ("fsdp:8,context:32",),
        "v5e:16x16": ("fsdp:8,context:32",),
        "tpu7x:4x4x4": ("fsdp:8,context:16",),
    },
    # Steps of these have batches of their own, which are not compiled ahead of time yet.
    "rl_gspo": {},
    "opd": {},
}
TOPOLOGIES = ("v5p:4x4x4", "v6e:16x16", "v5e:16x16", "tpu7x:4x4x4")


def define_flags() -> None:
    flags.DEFINE_list("stages", [], "compile pods: experiments to compile; all if none.")
    flags.DEFINE_list("topologies", list(TOPOLOGIES), "compile pods: those to compile for.")
    flags.DEFINE_string("store", "docs/results/pods.json", "compile pods: what is known so far.")


def run(given) -> dict:
    from ivx.commands.compile import step

    store = pathlib.Path(given.store)
    known = json.loads(store.read_text()) if store.is_file() else {}
    for stage in given.stages or CELLS:
        for topology, (mesh, *changes) in CELLS.get(stage, {}).items():
            if topology in given.topologies:
                asked = types.SimpleNamespace(
                    config=_config(stage, changes),
                    topology=topology,
                    mesh=mesh.split(","),
                    hlo="",
                    out=None,
                    timeout=given.timeout,
                    kernel_share=given.kernel_share,
                    slice_patches=given.slice_patches,
                )
                print(f"{stage} on {topology}, mesh {mesh}", flush=True)
                known[f"{stage} {topology}"] = step.run(asked) | {"changes": changes}
                store.write_text(json.dumps(known, indent=1) + "\n")
                store.with_suffix(".md").write_text(page(known))
    text = page(known)
    print(text)
    return {"ok": all(cell["ok"] for cell in known.values()), "cells": known}


def _config(stage: str, changes: list[str]):
    """The 8b preset of an experiment with some keys changed."""
    import ivx
    from ivx.commands import config_flag

    folder = pathlib.Path(ivx.__file__).parents[1] / "experiments"
    config = config_flag.load(folder / f"{stage}.py", "8b")
    for change in changes:
        key, value = change.split("=")
        section, name = key.split(".")
        config[section][name] = int(value)
    return config


def page(known: dict) -> str:
    """What is known, as Markdown."""
    lines = [
        "# Training steps of 8b, compiled for pods",
        "",
        "Made by `ivx compile pods` with libtpu on a CPU: memory, kernels and exchanges are the"
        " compiler's, times are modelled from them (`ivx/aot/estimate.py`), and nothing was run on"
        " a TPU. MFU stands for exchanges that are all hidden behind computation, and for none.",
        "",
        "| stage | topology | mesh | changed | peak GiB of capacity | modelled s a step | MFU"
        " | compiled in |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for stage in CELLS:
        for topology in TOPOLOGIES:
            lines.append(_cell(stage, topology, known.get(f"{stage} {topology}")))
    return "\n".join(lines) + "\n"


def _cell(stage: str, topology: str, found: dict | None) -> str:
    head = f"| {stage} | {topology} |"
    if found is None:
        return f"{head} | | untested | | | |"
    mesh = " x ".join(f"{axis} {n}" for axis, n in found.get("mesh", {}).items() if n > 1)
    head += f" {mesh} | {', '.join(found['changes'])} |"
    if found["refusal"]:
        return f"{head} does not compile: {found['refusal'].replace('|', '/')} | | | |"
    peak, capacity = found["memory"]["peak"], found["capacity"]
    time = found.get("estimate")
    modelled = (
        f"{time['hidden']:.1f} to {time['exposed']:.1f} | {time['mfu_hidden']:.2f} to"
        f" {time['mfu_exposed']:.2f}"
        if time
        else "unknown | unknown"
    )
    return (
        f"{head} {peak / _GIB:.1f} of {capacity / _GIB:.1f} ({peak / capacity:.0%})"
        f" | {modelled} | {found['compile_seconds']:.0f} s |"
    )
