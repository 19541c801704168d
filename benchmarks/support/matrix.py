"""`python -m benchmarks support`: the support matrix, from results of tests and of the compiler.

Three tables, none of them written by hand. A cell without evidence is "untested":

    stage x chip     from `python -m benchmarks pods`: whether the step of 8b compiles, its share of
                     the memory, and its mesh, micro-batches and remat
    op x chip        from `python -m benchmarks schedules --json`: how many cases compile
    feature x chip   the stages of the first table whose step has the feature and fits; and from
                     pytest's --junitxml how many tests on CPUs passed, failed or were skipped. Slow
                     tests are run, listed and counted separately

No column claims that something ran on a TPU, since nothing has.
"""

import collections
import fnmatch
import json
import pathlib
import xml.etree.ElementTree as xml
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from absl import flags

from benchmarks.pods import grid
from benchmarks.support.features import FEATURES, Feature
from ivx.commands.compile import search
from ivx.errors import UserError
from ivx.kernels.case import CHIPS

UNTESTED = "untested"
# The compiled part of a stage, where that is not a training step.
PARTS = {
    "sft_short": "the program of cpt",
    "rl_gspo": "its update",
    "opd": "its update",
    "convert": "its statistics; the algebra is untested",
}
_COMMANDS = (
    "```sh",
    "python -m pytest --ignore=tests/parity --junitxml=tests.xml",
    "python -m pytest -m slow --ignore=tests/parity --junitxml=slow.xml",
    "python -m pytest -m slow --ignore=tests/parity --collect-only -q > slow.txt",
    "python -m benchmarks schedules --json > kernels.txt",
    "python -m benchmarks support --tests=tests.xml,slow.xml --slow=slow.txt \\",
    "    --kernels=kernels.txt --out=docs/results/support.md",
    "```",
)
# If a test has several outcomes, the first of these counts.
_OUTCOMES = ("failed", "passed", "skipped")

SUMMARY = "The support matrix, from results of tests and of the compiler."
EXAMPLE = "  python -m benchmarks support --tests=tests.xml --out=docs/results/support.md"


def define_flags() -> None:
    """Defines the flags of this benchmark."""
    flags.DEFINE_string("out", None, "Markdown file to write.")
    flags.DEFINE_string("store", "benchmarks/results/pods.json", "JSON file of compiled cells.")
    flags.DEFINE_list("tests", [], "Files written by pytest --junitxml.")
    flags.DEFINE_string(
        "slow",
        "",
        "Output of `pytest -m slow --collect-only -q`. Without it slow tests are not counted"
        " separately, and slow tests that did not run do not appear.",
    )
    flags.DEFINE_string("kernels", "", "Output of `python -m benchmarks schedules --json`.")


def run(flag_values: Any, words: Sequence[str] = ()) -> dict:
    """Builds the tables and writes the page."""
    del words
    store = pathlib.Path(flag_values.store)
    cells = json.loads(store.read_text()) if store.is_file() else {}
    rows = _last_json(flag_values.kernels)["rows"] if flag_values.kernels else []
    outcomes = read_outcomes([pathlib.Path(path) for path in flag_values.tests])
    slow = read_slow(pathlib.Path(flag_values.slow)) if flag_values.slow else set()
    result = {
        "stages": stages(cells),
        "kernels": kernels(rows),
        "features": features(outcomes, slow, cells),
    }
    text = page(result)
    print(text)
    if flag_values.out:
        pathlib.Path(flag_values.out).write_text(text)
    return result


def stages(cells: Mapping[str, dict]) -> dict[str, dict[str, str]]:
    """Stage -> topology -> the compiler's result for its step."""
    return {
        stage: {
            topology: _cell(grid.cell(cells, stage, topology), topology)
            for topology in grid.TOPOLOGIES
        }
        for stage in grid.CELLS
    }


def _cell(row: Mapping | None, topology: str) -> str:
    # A compilation without an answer is no evidence.
    if row is None or not row.get("answered", True):
        return UNTESTED
    place = "" if row["topology"] == topology else f", on one host, {row['topology']}"
    verdict = "refused"
    if not row["refusal"]:
        share = row["memory"]["peak"] / row["capacity"]
        verdict = f"fits, {share:.0%}" if share <= search.SHARE else f"too large, {share:.0%}"
    return "; ".join(filter(None, (verdict + place, *_setting(row), row.get("outdated"))))


def _setting(row: Mapping) -> list[str]:
    """Mesh, micro-batches and remat of a step, and other changes of its preset."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in row["mesh"].items() if size > 1)
    count = row["accumulation"]
    shown = ("optim.accumulation", "model.remat")
    changes = [change for change in row["asked"]["changes"] if not change.startswith(shown)]
    parts = f"{count} micro-batches" if count > 1 else ""
    return [mesh, parts, f"remat {row['remat']}", *changes]


def kernels(rows: Sequence[dict]) -> dict[str, dict[str, str]]:
    """Op -> chip -> how many cases of ivx compile; cases of other libraries are left out."""
    by_op: dict[str, dict[str, list[bool]]] = {}
    for row in rows:
        if row["case"].startswith(row["op"]):
            by_chip = by_op.setdefault(row["op"], {})
            by_chip.setdefault(row["chip"], []).append(not row["refusal"])
    return {
        op: {
            chip: f"{sum(cases[chip])} of {len(cases[chip])} cases" if chip in cases else UNTESTED
            for chip in CHIPS
        }
        for op, cases in sorted(by_op.items())
    }


def read_outcomes(paths: Sequence[pathlib.Path]) -> dict[tuple[str, str], str]:
    """Module and name of each test -> failed, passed or skipped.

    Raises:
      UserError: a file is not a pytest report.
    """
    outcomes: dict[tuple[str, str], str] = {}
    for path in paths:
        try:
            cases = xml.parse(path).getroot().iter("testcase")
        except (OSError, xml.ParseError) as error:
            raise UserError(
                f"--tests={path} cannot be read: {error}; create it by pytest --junitxml={path}"
            ) from error
        for case in cases:
            kinds = {child.tag for child in case}
            outcome = "failed" if kinds & {"failure", "error"} else "passed"
            if outcome == "passed" and "skipped" in kinds:
                outcome = "skipped"
            test = case.get("classname", "").removeprefix("tests."), case.get("name", "")
            known = outcomes.get(test, outcome)
            outcomes[test] = min(outcome, known, key=_OUTCOMES.index)
    return outcomes


def read_slow(path: pathlib.Path) -> set[tuple[str, str]]:
    """Module and name of each test marked slow.

    Raises:
      UserError: the file names no tests.
    """
    lines = path.read_text().splitlines() if path.is_file() else []
    tests = {tuple(line.split("::", 1)) for line in lines if line.startswith("tests/")}
    if not tests:
        raise UserError(
            f"--slow={path} names no tests; create it by"
            f" python -m pytest -m slow --collect-only -q > {path}"
        )
    return {
        (file.removeprefix("tests/").removesuffix(".py").replace("/", "."), name)
        for file, name in tests
    }


def features(
    outcomes: Mapping[tuple[str, str], str],
    slow: Collection[tuple[str, str]],
    cells: Mapping[str, dict],
) -> dict[str, dict[str, str]]:
    """Feature -> outcomes of its tests "on CPUs", and for each topology the stages that have it."""
    table = {}
    for name, feature in FEATURES.items():
        tests = {
            test: outcomes.get(test, "not run")
            for test in outcomes.keys() | slow
            if any(_is_of(test, pattern) for pattern in feature.tests)
        }
        table[name] = {"on CPUs": _counted(tests, slow)} | {
            topology: ", ".join(_stages_with(feature, topology, cells)) or UNTESTED
            for topology in grid.TOPOLOGIES
        }
    return table


def _stages_with(feature: Feature, topology: str, cells: Mapping[str, dict]) -> list[str]:
    rows = {stage: grid.cell(cells, stage, topology) for stage in grid.CELLS}
    return [
        stage
        for stage, row in rows.items()
        if feature.is_in and row and search.fits(row) and feature.is_in(row)
    ]


def _is_of(test: tuple[str, str], pattern: str) -> bool:
    pattern += "*" if ":" in pattern else ":*"
    return fnmatch.fnmatchcase(":".join(test), pattern)


def _counted(outcomes: Mapping[tuple[str, str], str], slow: Collection[tuple[str, str]]) -> str:
    counts = collections.Counter((test in slow, outcome) for test, outcome in outcomes.items())
    words = [
        f"{counts[is_slow, outcome]} {'slow ' if is_slow else ''}{outcome}"
        for is_slow in (False, True)
        for outcome in ("passed", "failed", "skipped", "not run")
        if counts[is_slow, outcome]
    ]
    if not {"passed", "failed"} & set(outcomes.values()):
        words.insert(0, UNTESTED)
    return ", ".join(words)


def _last_json(path: str) -> dict:
    """The last line of the output of a command with --json.

    Raises:
      UserError: it is not JSON.
    """
    try:
        return json.loads(pathlib.Path(path).read_text().strip().splitlines()[-1])
    except (OSError, ValueError, IndexError) as error:
        raise UserError(
            f"--kernels={path} does not end with JSON ({error}); create it by"
            f" python -m benchmarks schedules --json > {path}"
        ) from error


def page(result: dict) -> str:
    """The tables as Markdown."""
    slices = {topology: grid.NAMES[topology] for topology in grid.TOPOLOGIES}
    named = {
        f"{stage}: {PARTS[stage]}" if stage in PARTS else stage: row
        for stage, row in result["stages"].items()
    }
    lines = [
        "# Support matrix",
        "",
        "Made by `python -m benchmarks support` from results of tests and of the compiler."
        " *untested* means that there is no evidence. Nothing was run on a TPU.",
        "",
        *_COMMANDS,
        "",
        "## Programs of 8b, compiled",
        "",
        "Each cell gives the share of device memory that a step needs; it fits if a tenth stays"
        " free. Programs are compiled for the whole slice unless stated otherwise. A step does not"
        " include the code that coordinates several hosts.",
        "",
        *_table(named, slices),
        "",
        "## Kernels, compiled",
        "",
        *(_table(result["kernels"], {c: c for c in CHIPS}) if result["kernels"] else [UNTESTED]),
        "",
        "## Features",
        "",
        "Tests on CPUs use small models. The other columns list the steps above that have the"
        " feature and fit; features that no compiled step has are untested there.",
        "",
        *_table(result["features"], {"on CPUs": "tests on CPUs"} | slices),
    ]
    return "\n".join(lines) + "\n"


def _table(rows: Mapping[str, Mapping[str, str]], columns: Mapping[str, str]) -> list[str]:
    return [
        f"| | {' | '.join(columns.values())} |",
        "|" + "---|" * (len(columns) + 1),
        *(f"| {row} | {' | '.join(cells[c] for c in columns)} |" for row, cells in rows.items()),
    ]
