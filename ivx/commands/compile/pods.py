"""`ivx compile pods`: what every stage of 8b runs, compiled for the pods it is meant for.

A cell is a stage on a topology with a mesh. What was compiled is kept in a JSON file beside the
page, so that a run that is cut off, or takes some cells only, leaves the others as they were; a
cell that was never compiled is "untested". Cells of the same question are compiled again only if
asked to.
"""

import json
import pathlib

from absl import flags

from ivx.commands.compile import cells, pods_page, search


def define_flags() -> None:
    flags.DEFINE_list("stages", [], "compile pods: experiments to compile; all if none.")
    flags.DEFINE_list("topologies", list(cells.TOPOLOGIES), "compile pods: those to compile for.")
    flags.DEFINE_string("store", "docs/results/pods.json", "compile pods: what is known so far.")


def run(given) -> dict:
    store = pathlib.Path(given.store)
    known = json.loads(store.read_text()) if store.is_file() else {}
    for stage in given.stages or cells.CELLS:
        for topology in cells.CELLS.get(cells.SAME.get(stage, stage), {}):
            if topology in given.topologies:
                compile_cell(cells.SAME.get(stage, stage), topology, known, given)
                store.write_text(json.dumps(known, indent=1) + "\n")
                store.with_suffix(".md").write_text(pods_page.page(known))
    text = pods_page.page(known)
    store.with_suffix(".md").write_text(text)
    print(text)
    return {"ok": all(search.fits(cell) for cell in known.values()), "cells": known}


def compile_cell(stage: str, topology: str, known: dict, given) -> None:
    """Compiles a cell into what is known, unless it is."""
    from ivx.commands.compile import step

    mesh, *changes = cells.CELLS[stage][topology]
    config, place = cells.preset(stage, mesh, changes), cells.place_of(stage, topology)
    key, asked = f"{stage} {topology}", {"mesh": mesh, "changes": changes}
    if not given.again and known.get(key, {}).get("asked") == asked:
        return
    print(f"{stage} on {place}, mesh {mesh} {' '.join(changes)}", flush=True)
    known[key] = step.ask(config, place, step.Asking.of(given)) | {"asked": asked}
