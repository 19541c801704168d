"""`ivx compile support`: what is known to work where, from what tests and the compiler said.

Three tables, none of it written by hand. A cell that nothing vouches for is "untested":

    stage x chip     of `ivx compile pods`: where its step of 8b compiles, what it fills, and with
                     which mesh, micro-batches and remat
    op x chip        of `ivx compile kernel --json`: how many cases of a kernel compile
    feature x chip   the stages of the first table whose step has it and fits; and of pytest's
                     --junitxml, how many tests on CPUs passed, failed, were skipped, slow ones
                     apart, which have to be run, and listed, by themselves

No column says that something ran on a TPU, since nothing has.
"""

import collections
import fnmatch
import json
import pathlib
import xml.etree.ElementTree as xml
from collections.abc import Mapping, Sequence

from absl import flags

from ivx.commands.compile import cells as pods_cells
from ivx.commands.compile import made_from, search
from ivx.commands.compile.features import FEATURES, Feature
from ivx.errors import UserError
from ivx.kernels.case import CHIPS

UNTESTED = "untested"
# What of a stage is compiled, where that is not a step of it.
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
    "ivx compile kernel --json > kernels.txt",
    "ivx compile support --tests=tests.xml,slow.xml --slow=slow.txt --kernels=kernels.txt \\",
    "    --out=docs/results/support.md",
    "```",
)
# Of several outcomes of a test the first counts.
_OUTCOMES = ("failed", "passed", "skipped")


def define_flags() -> None:
    flags.DEFINE_list("tests", [], "compile support: files that pytest wrote with --junitxml.")
    flags.DEFINE_string(
        "slow",
        "",
        "compile support: what `pytest -m slow --collect-only -q` printed; without it slow tests"
        " are not told from others, and those that did not run not at all.",
    )
    flags.DEFINE_string(
        "kernels",
        "",
        "compile support: a file whose last line `ivx compile kernel --json` printed.",
    )


def run(given) -> dict:
    store = pathlib.Path(given.store)
    cells = json.loads(store.read_text()) if store.is_file() else {}
    rows = _last_json(given.kernels)["rows"] if given.kernels else []
    outcomes = read_outcomes([pathlib.Path(path) for path in given.tests])
    slow = read_slow(pathlib.Path(given.slow)) if given.slow else set()
    result = {
        "stages": stages(cells),
        "kernels": kernels(rows),
        "features": features(outcomes, slow, cells),
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
                topology,
                ages.get(pods_cells.key(stage, topology), ""),
            )
            for topology in pods_cells.TOPOLOGIES
        }
        for stage in pods_cells.CELLS
    }


def _cell(found: dict | None, topology: str, age: str) -> str:
    # What never answered vouches for nothing.
    if found is None or not found.get("answered", True):
        return UNTESTED
    place = "" if found["topology"] == topology else f", on one host, {found['topology']}"
    said = "refused"
    if not found["refusal"]:
        share = found["memory"]["peak"] / found["capacity"]
        said = f"fits, {share:.0%}" if share <= search.SHARE else f"too large, {share:.0%}"
    return "; ".join(filter(None, (said + place, *_setting(found), age)))


def _setting(row: dict) -> list[str]:
    """With what a step was compiled, and what else was changed of its preset."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in row["mesh"].items() if size > 1)
    count = row["accumulation"]
    told = ("optim.accumulation", "model.remat")
    changes = [one for one in row["asked"]["changes"] if not one.startswith(told)]
    parts = f"{count} micro-batches" if count > 1 else ""
    return [mesh, parts, f"remat {row['remat']}", *changes]


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


def read_outcomes(paths: Sequence[pathlib.Path]) -> dict[tuple[str, str], str]:
    """Module and name of each test -> failed, passed or skipped.

    Raises:
      UserError: a file is not one of pytest's.
    """
    outcomes: dict[tuple[str, str], str] = {}
    for path in paths:
        try:
            cases = xml.parse(path).getroot().iter("testcase")
        except (OSError, xml.ParseError) as error:
            raise UserError(
                f"--tests={path} cannot be read: {error}; make it by pytest --junitxml={path}"
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
    """Module and name of each test that is marked slow.

    Raises:
      UserError: the file names no tests.
    """
    lines = path.read_text().splitlines() if path.is_file() else []
    tests = {tuple(line.split("::", 1)) for line in lines if line.startswith("tests/")}
    if not tests:
        raise UserError(
            f"--slow={path} names no tests; make it by"
            f" python -m pytest -m slow --collect-only -q > {path}"
        )
    return {
        (file.removeprefix("tests/").removesuffix(".py").replace("/", "."), name)
        for file, name in tests
    }


def features(
    outcomes: Mapping[tuple[str, str], str], slow: set[tuple[str, str]], cells: Mapping[str, dict]
) -> dict[str, dict[str, str]]:
    """Feature -> "on CPUs" -> what its tests said, and topology -> stages that compile with it."""
    found = {}
    for name, feature in FEATURES.items():
        own = {
            test: outcomes.get(test, "not run")
            for test in outcomes.keys() | slow
            if any(_is_of(test, pattern) for pattern in feature.tests)
        }
        found[name] = {"on CPUs": _counted(own, slow)} | {
            topology: ", ".join(_stages_with(feature, topology, cells)) or UNTESTED
            for topology in pods_cells.TOPOLOGIES
        }
    return found


def _stages_with(feature: Feature, topology: str, cells: Mapping[str, dict]) -> list[str]:
    rows = {stage: pods_cells.cell(cells, stage, topology) for stage in pods_cells.CELLS}
    return [
        stage
        for stage, row in rows.items()
        if feature.is_in and row and search.fits(row) and feature.is_in(row)
    ]


def _is_of(test: tuple[str, str], pattern: str) -> bool:
    pattern += "*" if ":" in pattern else ":*"
    return fnmatch.fnmatchcase(":".join(test), pattern)


def _counted(outcomes: Mapping[tuple[str, str], str], slow: set[tuple[str, str]]) -> str:
    counts = collections.Counter((test in slow, said) for test, said in outcomes.items())
    words = [
        f"{counts[is_slow, said]} {'slow ' if is_slow else ''}{said}"
        for is_slow in (False, True)
        for said in ("passed", "failed", "skipped", "not run")
        if counts[is_slow, said]
    ]
    if not {"passed", "failed"} & set(outcomes.values()):
        words.insert(0, UNTESTED)
    return ", ".join(words)


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
    slices = {topology: pods_cells.NAMES[topology] for topology in pods_cells.TOPOLOGIES}
    named = {
        f"{stage}: {PARTS[stage]}" if stage in PARTS else stage: row
        for stage, row in result["stages"].items()
    }
    lines = [
        "# What is known to work where",
        "",
        "Made by `ivx compile support` from what tests and the compiler said; *untested* means that"
        " nothing vouches for a cell. Nothing was run on a TPU.",
        "",
        *_COMMANDS,
        "",
        "## Programs of 8b, compiled",
        "",
        "Share of a device's memory that a step fills; it fits if a tenth stays free. Compiled for"
        " the slice itself if not said otherwise; the code of several hosts is no part of a step.",
        "",
        *_table(named, slices),
        "",
        "## Kernels, compiled",
        "",
        *(_table(result["kernels"], {c: c for c in CHIPS}) if result["kernels"] else [UNTESTED]),
        "",
        "## Features",
        "",
        "Tests on CPUs, of small models; and of the steps above, those that have the feature and"
        " fit. What no step has is untested there, and so is what is no part of one.",
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
