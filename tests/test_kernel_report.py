"""The report on kernels: what is kept of it when it is cut off, and what its page says."""

import json
import types

import pytest

from ivx.aot import chips, library, record
from ivx.aot import kernel as compiling
from ivx.aot.schedule import CaseSchedule, KernelSchedule
from ivx.commands.compile import kernel, kernel_page
from tests.small_kernel import cases

MODULE = "tests.small_kernel"
SLOTS = {"MXU": 0.9, "VALU": 0.4}


def options(**given) -> types.SimpleNamespace:
    usual = {
        "chip": ["v5p", "v6e"], "op": [], "case": [], "cases_from": [MODULE], "peers": False,
        "again": False, "timeout": 60.0, "out": None,
    }  # fmt: skip
    return types.SimpleNamespace(**usual | given)


@pytest.fixture
def compiler(monkeypatch):
    """Asked for what; `refuses` holds the chips that it takes too long for."""
    asked = types.SimpleNamespace(cells=[], refuses=set())

    def compile_case(module, case, chip, seconds):
        asked.cells.append((case.name, chip.name))
        if chip.name in asked.refuses:
            return compiling.Compiled(case, chip, "not compiled within 60 s")
        one = KernelSchedule("a", True, 90, 10, 0, (), 0.9, SLOTS, (7, 7), 1, 64, 1 << 20)
        step = CaseSchedule((one,), 100, compute=8e-6, hbm=1e-6, schedule=1e-5, done=1.0)
        return compiling.Compiled(case, chip, "", 1.5, 1 << 20, 300, 0, step)

    monkeypatch.setattr(compiling, "compile_case", compile_case)
    monkeypatch.setattr(library, "find", lambda: None)
    return asked


def test_what_is_kept_is_not_compiled_again(compiler, tmp_path):
    """A run that was cut off goes on; what failed is tried again, and --again compiles all."""
    out = tmp_path / "page.md"
    compiler.refuses = {"v6e"}
    assert not kernel.run(options(out=out))["ok"]
    assert "refused: not compiled within 60 s" in out.read_text()
    cells = [("small", "v5p"), ("large", "v5p"), ("small", "v6e"), ("large", "v6e")]
    assert compiler.cells == cells
    compiler.cells, compiler.refuses = [], set()
    assert kernel.run(options(out=out))["ok"]
    assert compiler.cells == cells[2:] and "refused" not in out.read_text()
    compiler.cells = []
    kernel.run(options(out=out, chip=["v5p"], case=["small"], again=True))
    assert compiler.cells == cells[:1]
    kept = json.loads(out.with_suffix(".json").read_text())
    assert sorted((row["case"], row["chip"]) for row in kept) == sorted(cells)


def test_a_page_that_is_not_finished_says_so_and_notes_stay(compiler, tmp_path, monkeypatch):
    out, pages = tmp_path / "page.md", []
    out.write_text("# Old\n\n## Notes\n\nBy hand.\n")
    render = kernel_page.render
    monkeypatch.setattr(
        kernel_page, "render", lambda *given: pages.append(render(*given)) or pages[-1]
    )
    kernel.run(options(out=out))
    assert "**7 of 8 cells are not compiled yet.**" in pages[0]
    kernel.run(options(out=out, chip=["v5e", "tpu7x"]))
    assert "cells are not compiled" not in pages[-1]
    assert all(page.endswith("## Notes\n\nBy hand.\n") for page in pages)
    assert out.read_text() == pages[-1]


def test_a_row_is_stale_when_what_it_was_made_from_has_changed(tmp_path, monkeypatch):
    source = tmp_path / "somewhere.py"
    source.write_text("first = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "rows.json"
    row = {"case": "a", "chip": "v5p", "refusal": "", "versions": {"jax": "1", "tokamax": "2"}}
    record.Record(path, {}).keep("somewhere", row)

    def found(**versions):
        again = record.Record(path, {"jax": "1"} | versions)
        again.read()
        return again.find("somewhere", "a", "v5p")

    assert found() and found(tokamax="2") and found(unrelated="3")
    assert not found(jax="another") and not found(libtpu="1") and not found(tokamax="another")
    source.write_text('"""What it is."""\n\nfirst = (1)  # as before\n')
    assert found()
    source.write_text("first = 2\n")
    assert not found()


def test_a_page_of_a_part_shows_all_that_is_kept(compiler, tmp_path):
    """Asked for one cell, the command makes that; the others stay, and what has changed is said."""
    out = tmp_path / "page.md"
    kernel.run(options(out=out))
    whole = out.read_text()
    compiler.cells = []
    assert len(kernel.run(options(out=out, chip=["v6e"], case=["small"]))["rows"]) == 1
    assert out.read_text() == whole and compiler.cells == []
    path = out.with_suffix(".json")
    rows = json.loads(path.read_text())
    rows[1]["made_from"] = "something else"
    path.write_text(json.dumps(rows))
    kernel.run(options(out=out, chip=["v6e"]))
    assert "**1 of 8 cells, marked (older)" in out.read_text()
    assert "| large (older) | v5p |" in out.read_text() and compiler.cells == []


def test_rows_of_other_libraries_stay_on_the_page(compiler, tmp_path):
    """Also when only ours are asked for; with theirs, the version of what has made them."""
    out = tmp_path / "page.md"
    part = {"out": out, "cases_from": [], "chip": ["v6e"]}
    kernel.run(options(**part, op=["reverse_kl"], peers=True))
    kernel.run(options(**part, op=["latent_decode"]))
    page = out.read_text()
    assert "| jax_splash-fwd-bf16-8x8192 | v6e |" in page and "older" not in page
    assert ("tokamax" in page.splitlines()[3]) == bool(library.versions("tokamax"))
    assert "cells are not compiled yet" in page


@pytest.mark.parametrize(
    ("wanted", "cell"),
    [
        ({"useful": 0.75}, ">= 75% of the peak | 80.0% | met"),
        ({"useful": 0.85}, ">= 85% of the peak | 80.0% | **missed**"),
        ({"of_hbm": 10.5}, "<= 10.5 of the HBM time | 10.000 | met"),
        ({"of_hbm": 0.75}, "<= 0.75 of the HBM time | 10.000 | **missed**"),
    ],
)
def test_what_was_wanted_stands_beside_what_was_found(compiler, wanted, cell):
    case = cases("v5p")[0]
    row = kernel._row(compiling.compile_case(MODULE, case, chips.CHIPS["v5p"], 1))
    page = kernel_page.render([row | {"wanted": wanted, "older": False}], {"jax": "1"}, 1)
    assert f"| small | v5p | {cell} | MXU 90% |" in page


@pytest.mark.parametrize(("measure", "goal"), [("useful", ">= 75%"), ("of_hbm", "<= 0.75")])
def test_what_is_wanted_of_a_case_without_a_kernel_is_said_so(measure, goal):
    """No schedule is read where XLA makes all of it."""
    plain = compiling.Compiled(cases("v5e")[0], chips.CHIPS["v5e"], "", xla_cycles=10)
    row = kernel._row(plain) | {"wanted": {measure: 0.75}, "older": False}
    [line] = [one for one in kernel_page.render([row], {}, 1).splitlines() if goal in one]
    assert "**no Pallas kernel**" in line


def test_estimates_of_xla_are_of_whole_calls():
    """What turns a known number of times is counted; else a row says that it tells nothing."""
    chip, case = chips.CHIPS["v5e"], cases("v5e")[0]
    cycles = 2 * case.flops / chip.peak * chip.clock
    known = compiling.Compiled(case, chip, "", xla_cycles=round(cycles))
    page = kernel_page.render([kernel._row(known) | {"older": False}], {}, 1)
    assert f"| small | v5e | {round(cycles):,} | 0.2 | 0.1 | 50% |" in page
    unknown = compiling.Compiled(case, chip, "", xla_cycles=round(cycles), unknown_loops=2)
    page = kernel_page.render([kernel._row(unknown) | {"older": False}], {}, 1)
    assert "2 loops of unknown length counted once | 0.2 | 0.1 |  |" in page
