"""`ivx compile support`: what is known to work where, from what tests and the compiler said.

Three tables, none of it written by hand. A cell that nothing vouches for is "untested":

    stage x chip     of `ivx compile pods`: whether the step of 8b compiles, and what it fills
    op x chip        of `ivx compile kernel --json`: how many cases of a kernel compile
    feature          of pytest's --junitxml: how many tests on CPUs passed, failed, were skipped

No column says that something ran on a TPU, since nothing has.
"""

import json
import pathlib
import xml.etree.ElementTree as xml
from collections.abc import Mapping, Sequence

from absl import flags

from ivx.commands.compile import cells as pods_cells
from ivx.commands.compile import made_from
from ivx.errors import UserError
from ivx.kernels.case import CHIPS

UNTESTED = "untested"
# Feature -> where its tests are, module:beginning of the name.
FEATURES: dict[str, tuple[str, ...]] = {
    "one device = eight, each mesh axis": ("test_parallel:test_sharded",),
    "micro-batches": ("test_parallel:test_micro", "test_reduction"),
    "remat and host offload by name": (
        "test_parallel:test_layers",
        "test_parallel:test_policies",
        "test_parallel:test_offload",
    ),
    "context parallelism": ("test_context",),
    "vision spread by slice": ("test_parallel:test_slices", "test_parallel:test_patches"),
    "several hosts": ("test_hosts", "multi_process.test_other_hosts"),
    "several slices": ("test_parallel:test_only_replica",),
    "resume, bit for bit": ("test_resume",),
    "checkpoints on another mesh, damaged ones": (
        "test_checkpoint",
        "test_damaged_checkpoints",
        "test_fingerprint",
    ),
    "bad gradients, SIGTERM, hangs": ("test_stability", "test_preemption", "test_watchdog"),
    "packing = alone, prefill = decode": ("test_model",),
    "gspo": ("test_gspo",),
    "on-policy distillation": ("test_distillation",),
    "conversion to latent attention": ("test_conversion", "test_convert", "test_exact_latent"),
    "Hugging Face in and out": ("test_hf_", "test_import_export"),
    "the recipe, tiny": ("test_recipe",),
    "the agent": ("test_agent", "test_agent_traces"),
}


def define_flags() -> None:
    flags.DEFINE_list("tests", [], "compile support: files that pytest wrote with --junitxml.")
    flags.DEFINE_string(
        "kernels",
        "",
        "compile support: a file whose last line `ivx compile kernel --json` printed.",
    )


def run(given) -> dict:
    store = pathlib.Path(given.store)
    cells = json.loads(store.read_text()) if store.is_file() else {}
    rows = _last_json(given.kernels)["rows"] if given.kernels else []
    outcomes = [one for path in given.tests for one in read_outcomes(pathlib.Path(path))]
    result = {
        "stages": stages(cells),
        "kernels": kernels(rows),
        "features": features(outcomes),
    }
    text = page(result)
    print(text)
    if given.out:
        pathlib.Path(given.out).write_text(text)
    return result


def stages(cells: Mapping[str, dict]) -> dict[str, dict[str, str]]:
    """Stage -> topology -> what the compiler said of its step."""
    ages = made_from.ages(cells)
    return {
        stage: {
            topology: _cell(
                pods_cells.cell(cells, stage, topology),
                ages.get(pods_cells.key(stage, topology), ""),
            )
            for topology in pods_cells.TOPOLOGIES
        }
        for stage in pods_cells.CELLS
    }


def _cell(found: dict | None, age: str) -> str:
    # What never answered vouches for nothing.
    if found is None or not found.get("answered", True):
        return UNTESTED
    aged = f", {age}" if age else ""
    if found["refusal"]:
        return f"refused{aged}"
    share = found["memory"]["peak"] / found["capacity"]
    return (f"compiles, {share:.0%} of memory" if share <= 1 else f"too large, {share:.0%}") + aged


def kernels(rows: Sequence[dict]) -> dict[str, dict[str, str]]:
    """Op -> chip -> how many of our cases compile; other libraries' have names of their own."""
    found: dict[str, dict[str, list[bool]]] = {}
    for row in rows:
        if row["case"].startswith(row["op"]):
            of_chips = found.setdefault(row["op"], {})
            of_chips.setdefault(row["chip"], []).append(not row["refusal"])
    return {
        op: {
            chip: f"{sum(of[chip])} of {len(of[chip])} cases" if chip in of else UNTESTED
            for chip in CHIPS
        }
        for op, of in sorted(found.items())
    }


def read_outcomes(path: pathlib.Path) -> list[tuple[str, str, str]]:
    """Module, name and outcome (passed, failed or skipped) of each test.

    Raises:
      UserError: the file is not one of pytest's.
    """
    try:
        cases = xml.parse(path).getroot().iter("testcase")
    except (OSError, xml.ParseError) as error:
        raise UserError(
            f"--tests={path} cannot be read: {error}; make it by pytest --junitxml={path}"
        ) from error
    outcomes = []
    for case in cases:
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "passed"
        if "skipped" in kinds:
            outcome = "skipped"
        outcomes.append((case.get("classname", ""), case.get("name", ""), outcome))
    return outcomes


def features(outcomes: Sequence[tuple[str, str, str]]) -> dict[str, str]:
    """Feature -> what its tests said."""
    return {
        feature: _counted([one for one in outcomes if any(_is_of(one, t) for t in tests)])
        for feature, tests in FEATURES.items()
    }


def _is_of(outcome: tuple[str, str, str], tests: str) -> bool:
    module, _, name = tests.partition(":")
    found = outcome[0].removeprefix("tests.")
    exact = found.startswith(module) if module.endswith("_") else found == module
    return exact and outcome[1].startswith(name)


def _counted(outcomes: Sequence[tuple[str, str, str]]) -> str:
    counts = {
        kind: sum(outcome == kind for *_, outcome in outcomes)
        for kind in ("passed", "failed", "skipped")
    }
    if not counts["passed"] and not counts["failed"]:
        return UNTESTED
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)


def _last_json(path: str) -> dict:
    """What a command with --json printed last.

    Raises:
      UserError: there is no such line.
    """
    try:
        return json.loads(pathlib.Path(path).read_text().strip().splitlines()[-1])
    except (OSError, ValueError, IndexError) as error:
        raise UserError(
            f"--kernels={path} ends with no JSON ({error}); make it by"
            f" ivx compile kernel --json > {path}"
        ) from error


def page(result: dict) -> str:
    """The tables as Markdown."""
    lines = [
        "# What is known to work where",
        "",
        "Made by `ivx compile support` from what tests and the compiler said; *untested* means that"
        " nothing vouches for a cell. Nothing was run on a TPU.",
        "",
        "## Training steps of 8b, compiled",
        "",
        *_table(result["stages"], pods_cells.TOPOLOGIES),
        "",
        "## Kernels, compiled",
        "",
        *(_table(result["kernels"], CHIPS) if result["kernels"] else [UNTESTED]),
        "",
        "## Features, by tests on CPUs",
        "",
        "| | tests on CPUs | on a TPU |",
        "|---|---|---|",
        *(f"| {name} | {said} | {UNTESTED} |" for name, said in result["features"].items()),
    ]
    return "\n".join(lines) + "\n"


def _table(rows: Mapping[str, Mapping[str, str]], columns: Sequence[str]) -> list[str]:
    return [
        f"| | {' | '.join(columns)} |",
        "|" + "---|" * (len(columns) + 1),
        *(f"| {row} | {' | '.join(cells[c] for c in columns)} |" for row, cells in rows.items()),
    ]
