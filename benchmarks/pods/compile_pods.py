"""`python -m benchmarks pods`: compiles every stage of 8b for the pods it is meant for.

A cell is a stage on a topology with a mesh. Compiled cells are kept in a JSON file, so an
interrupted run, or a run of some cells only, leaves the others unchanged. A cell that was never
compiled is "untested". Every selected cell is lowered first, in seconds, and compared with the
stored digest and compiler versions (`benchmarks.provenance`). Which cells are compiled:

    never compiled, or with another mesh or teacher    always
    not answered: timed out, or the compiler crashed   always
    refused by the compiler                            if the program or a version has changed
    compiled, and the program or a version has changed with --outdated; otherwise marked as outdated
    anything else                                      with --again

Modelled times are computed anew on every run. With no topology (`--topologies=`), or without
libtpu, nothing is lowered, and the page shows the state of the store.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import ml_collections
from absl import flags

from benchmarks import provenance
from benchmarks.pods import grid, pods_page
from ivx import from_config
from ivx.aot import library, pricing
from ivx.aot.options import CompileOptions
from ivx.commands.compile import search, step
from ivx.errors import UserError

SUMMARY = "Compile every stage of 8b for the pods it is meant for."
EXAMPLE = "  python -m benchmarks pods --stages=cpt --topologies=v6e:16x16"


def define_flags() -> None:
    """Defines the flags of this benchmark."""
    flags.DEFINE_float("timeout", 3600.0, "Seconds that one compilation may take.", lower_bound=1.0)
    flags.DEFINE_bool("again", False, "Compile all selected cells again.")
    step.define_compile_flags()
    flags.DEFINE_list("stages", [], "Stages to compile; all by default.")
    flags.DEFINE_list("topologies", list(grid.TOPOLOGIES), "Topologies to compile for.")
    flags.DEFINE_string("store", "benchmarks/results/pods.json", "JSON file of compiled cells.")
    flags.DEFINE_string("page", "docs/results/pods.md", "Markdown file to write.")
    flags.DEFINE_bool(
        "outdated", False, "Compile cells again whose program or compiler versions have changed."
    )


def run(flag_values: Any, words: Sequence[str] = ()) -> dict:
    """Compiles the selected cells and writes the store and its page."""
    del words
    store, page = pathlib.Path(flag_values.store), pathlib.Path(flag_values.page)
    rows = json.loads(store.read_text()) if store.is_file() else {}
    for row in rows.values():
        pricing.price(row, flag_values.kernel_pace)
    for stage, topology in _selected(flag_values):
        update_cell(stage, topology, rows, flag_values)
        _write(store, page, rows)
    print(_write(store, page, rows))
    return {"ok": all(search.fits(row) for row in rows.values()), "cells": rows}


def _selected(flag_values: Any) -> list[tuple[str, str]]:
    """Stage and topology of every cell to look at, without duplicates."""
    stages = dict.fromkeys(
        grid.SAME.get(stage, stage) for stage in flag_values.stages or grid.CELLS
    )
    selected = [
        (stage, topology)
        for stage in stages
        for topology in grid.CELLS.get(stage, {})
        if topology in flag_values.topologies
    ]
    if selected and not (flag_values.again or flag_values.outdated):
        try:
            library.find()
        except UserError as error:
            print(f"nothing is lowered or compiled, the page shows the store: {error}", flush=True)
            return []
    return selected


def update_cell(stage: str, topology: str, rows: dict, flag_values: Any) -> None:
    """Brings the row of a cell up to date, and compiles it if that is necessary."""
    mesh, *changes = grid.CELLS[stage][topology]
    config, place = grid.config(stage, topology), grid.place_of(stage, topology)
    request = {"mesh": mesh, "changes": changes}
    if stage == "opd":
        request["teacher"] = flag_values.teacher
    options = dataclasses.replace(step.options_of(flag_values), part=grid.part_of(stage))
    key = grid.key(stage, topology)
    row = rows.get(key)
    print(f"{stage} on {place}, mesh {' '.join((mesh, *changes))}: ", end="", flush=True)
    reusable = row and row["asked"] == request and (row["ok"] or row.get("answered"))
    if reusable and not flag_values.again and _is_kept(row, config, place, options, flag_values):
        return
    print("compiling", flush=True)
    origin = {"asked": request, "versions": provenance.versions()}
    rows[key] = step.compile_step(config, place, options) | origin


def _is_kept(
    row: dict,
    config: ml_collections.ConfigDict,
    place: str,
    options: CompileOptions,
    flag_values: Any,
) -> bool:
    """Lowers the program of a row and records whether the row is outdated.

    Returns:
      False if the cell has to be compiled again.
    """
    answer = step.lower_step(config, place, options)
    if not answer.answered:
        print(f"could not be lowered: {answer.refusal}", flush=True)
        return True
    row.pop("outdated", None)
    lowered = answer.found.get("lowered", "")
    reason = provenance.difference(row, lowered, provenance.versions())
    print(reason or "current", flush=True)
    if reason:
        row["outdated"] = reason
        return row["ok"] and not flag_values.outdated
    if row["ok"]:
        row.update(from_config.step_load.load(config, options, row["mesh"]))
        pricing.price(row, options.pace)
    return True


def _write(store: pathlib.Path, page: pathlib.Path, rows: dict) -> str:
    """Writes the store and the page, each atomically, and returns the page."""
    text = pods_page.page(rows)
    for path, content in ((store, json.dumps(rows, indent=1) + "\n"), (page, text)):
        temporary = path.with_name(f"{path.name}.new")
        temporary.write_text(content)
        temporary.replace(path)
    return text
