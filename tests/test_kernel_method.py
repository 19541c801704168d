"""The method of the kernel report has a number, since stored rows outlive the code.

Stored rows are not compiled again after a change in how schedules are read, unless `record.METHOD`
is raised. If a test here fails, raise it and run `python -m tests.make_golden`.
"""

import json
import pathlib

import pytest

from benchmarks.schedules import compile_kernels, compiled_case, record
from ivx.aot import child, chips, library, program
from tests.conftest import ROOT
from tests.test_aot import LOOP, a_case, dump

GOLDEN = ROOT / "tests" / "golden" / f"kernel_method_{record.METHOD}.json"
# A product in a loop of four iterations, a fusion, and a loop of unknown trip count.
PROGRAM = """
%body (t: (s32[], f32[16])) -> (s32[], f32[16]) {
  %f = f32[64]{0} fusion(%x), calls=%fused, backend_config={"estimated_cycles":"100"}
}
%condition (t: (s32[], f32[16])) -> pred[] {
  %found = pred[] compare(%a, %b), direction=LT
}
ENTRY %main (p: f32[16]) -> f32[16] {
  %short = (s32[], f32[16]) while(%t), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"4"}}
  %open = (s32[], f32[16]) while(%t), condition=%condition, body=%body
  ROOT %last = f32[16]{0} fusion(%g), calls=%fused, backend_config={"estimated_cycles":"7"}
}
"""  # noqa: E501


def numbers(patch: pytest.MonkeyPatch) -> dict:
    """The compiler's arguments, and the row of a small schedule on every chip."""

    def ask(module, question, seconds, folder):
        dump(folder, LOOP)
        around = program.read(PROGRAM, {"one": 1})
        return child.Answer(
            {
                "seconds": 1.5,
                "temporaries": 1 << 20,
                "xla_cycles": around.cycles,
                "unknown_loops": around.unknown_loops,
            }
        )

    patch.setattr(child, "ask", ask)
    # Eight bundles in which both units of v6e take two rows.
    case = a_case(8 * 2 * 256**2 * 2 * 2)
    environment = library.environment(pathlib.Path("libtpu.so"), pathlib.Path("folder"))
    return {
        "asked": environment["LIBTPU_INIT_ARGS"],
        "rows": [
            compile_kernels._row(compiled_case.compile_case("", case, chip, 60))
            for chip in chips.CHIPS.values()
        ],
    }


def test_change_of_the_method_changes_its_number(monkeypatch):
    golden = json.loads(GOLDEN.read_text())
    assert numbers(monkeypatch) == golden, "raise record.METHOD, then python -m tests.make_golden"


def test_rows_of_another_method_are_outdated(monkeypatch):
    rows, key = record.Record(None, {"jax": "1"}), ("a", "v5p")
    versions = {"jax": "1"}
    rows.add({"case": "a", "chip": "v5p", "refusal": "", "lowered": "l", "versions": versions})
    rows.compare([key], {key: "l"})
    assert rows.current(*key)
    monkeypatch.setattr(record, "METHOD", record.METHOD + 1)
    rows.compare([key], {key: "l"})
    assert not rows.current(*key) and rows.rows[key]["outdated"] == "of another method"
