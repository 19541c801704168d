"""How numbers of the report on kernels come about is numbered, since rows outlive the code.

Kept rows are not made again for a change of how a schedule is read; `record.METHOD` tells that one
gave other numbers. If a test here fails, raise it and run `python -m tests.make_golden`.
"""

import json
import pathlib

import pytest

from ivx.aot import child, chips, library, program, record
from ivx.aot import kernel as compiling
from ivx.commands.compile import kernel
from tests.conftest import ROOT
from tests.test_aot import LOOP, a_case, dump

GOLDEN = ROOT / "tests" / "golden" / f"kernel_method_{record.METHOD}.json"
# A product in a loop of four turns, a fusion beside it, and a loop whose turns are not known.
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
    """What the compiler is asked, and the row of a small schedule on every chip."""

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
    asked = library.environment(pathlib.Path("libtpu.so"), pathlib.Path("folder"))
    return {
        "asked": asked["LIBTPU_INIT_ARGS"],
        "rows": [
            kernel._row(compiling.compile_case("", case, chip, 60)) for chip in chips.CHIPS.values()
        ],
    }


def test_a_method_that_gives_other_numbers_has_another_number(monkeypatch):
    kept = json.loads(GOLDEN.read_text())
    assert numbers(monkeypatch) == kept, "raise record.METHOD, then python -m tests.make_golden"


def test_rows_of_another_method_are_made_again(monkeypatch):
    was = record.made_from("tests.small_kernel")
    assert record.made_from("tests.small_kernel") == was
    monkeypatch.setattr(record, "METHOD", record.METHOD + 1)
    assert record.made_from("tests.small_kernel") != was
