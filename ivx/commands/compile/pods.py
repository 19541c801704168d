"""`ivx compile pods`: what every stage of 8b runs, compiled for the pods it is meant for.

A cell is a stage on a topology with a mesh. What was compiled is kept in a JSON file beside the
page, so that a run that is cut off, or takes some cells only, leaves the others as they were; a
cell that was never compiled is "untested". What is compiled:

    never compiled, or asked with another mesh or teacher   always
    not answered: it took too long, or the compiler died    always
    refused by the compiler                                 once what it is made from has changed
    compiled, and made from what has changed since          with --outdated; else the page says so
    anything else                                           with --again

With --outdated a program is lowered first, in seconds, and what is known of it stands where that
gives the same as before.

What is made of the compiler's answers by arithmetic is made anew every time, and with no topology
asked for (`--topologies=`) that is all that is done.
"""

import dataclasses
import json
import pathlib

from absl import flags

from ivx.commands.compile import cells, made_from, pods_page, search


def define_flags() -> None:
    flags.DEFINE_list("stages", [], "compile pods: experiments to compile; all if none.")
    flags.DEFINE_list("topologies", list(cells.TOPOLOGIES), "compile pods: those to compile for.")
    flags.DEFINE_string("store", "docs/results/pods.json", "compile pods: what is known so far.")
    flags.DEFINE_bool(
        "outdated", False, "compile pods: also what was made from earlier sources or versions."
    )


def run(given) -> dict:
    from ivx.commands.compile import step

    store = pathlib.Path(given.store)
    known = json.loads(store.read_text()) if store.is_file() else {}
    for row in known.values():
        step.price(row, given.kernel_pace)
    for stage in given.stages or cells.CELLS:
        for topology in cells.CELLS.get(cells.SAME.get(stage, stage), {}):
            if topology in given.topologies:
                compile_cell(cells.SAME.get(stage, stage), topology, known, given)
                _write(store, known)
    print(_write(store, known))
    return {"ok": all(search.fits(cell) for cell in known.values()), "cells": known}


def compile_cell(stage: str, topology: str, known: dict, given) -> None:
    """Compiles a cell into what is known, unless that is known well enough."""
    from ivx.commands.compile import step

    mesh, *changes = cells.CELLS[stage][topology]
    part = cells.part_of(stage)
    config, place = cells.config(stage, topology), cells.place_of(stage, topology)
    key, current = cells.key(stage, topology), made_from.now(config)
    asked = {"mesh": mesh, "changes": changes}
    if stage == "opd":
        asked["teacher"] = given.teacher
    row, same = known.get(key), None
    asking = dataclasses.replace(step.Asking.of(given), part=part)
    if row and row["asked"] == asked and not given.again:
        age = made_from.age(row, current)
        if not (_tried_again(row, age) if row["refusal"] else age and given.outdated):
            if row["ok"] and row.get("made_from", {}).get("config") == current["config"]:
                known_calls = row.get("backward_calls", 1)
                row.update(step.load(config, asking, row["mesh"]))
                if age:
                    # Of the kernel as it was then.
                    row["backward_calls"] = known_calls
                step.price(row, asking.pace)
            return
        if row["ok"] and made_from.is_read_alike(row, current):
            same = row
    print(f"{stage} on {place}, mesh {mesh} {' '.join(changes)}", flush=True)
    known[key] = step.ask(config, place, asking, same) | {"asked": asked, "made_from": current}


def _tried_again(row: dict, age: str) -> bool:
    """Whether a cell that was refused may end otherwise: an answer of the compiler stands."""
    return bool(age) or not row.get("answered")


def _write(store: pathlib.Path, known: dict) -> str:
    """Writes what is known and its page, each whole or not at all; the page."""
    text = pods_page.page(known, made_from.ages(known))
    for path, content in ((store, json.dumps(known, indent=1) + "\n"), (_page_of(store), text)):
        beside = path.with_name(f"{path.name}.new")
        beside.write_text(content)
        beside.replace(path)
    return text


def _page_of(store: pathlib.Path) -> pathlib.Path:
    return store.with_suffix(".md")
