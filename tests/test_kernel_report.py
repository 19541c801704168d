"""The report on kernels: which cases are compiled again, and what the page shows."""

import json
import types

import pytest

from benchmarks import provenance
from benchmarks.schedules import compile_kernels, compiled_case, record, schedule_page
from benchmarks.schedules.schedule import CaseSchedule, KernelSchedule
from ivx.aot import chips, library
from ivx.errors import UserError
from tests.conftest import ROOT
from tests.small_kernel import cases
from tests.test_aot import libtpu

MODULE = "tests.small_kernel"
SLOTS = {"MXU": 0.9, "VALU": 0.4}


def options(**flags) -> types.SimpleNamespace:
    usual = {
        "chip": ["v5p", "v6e"], "op": [], "case": [], "cases_from": [MODULE], "peers": False,
        "again": False, "timeout": 60.0, "out": None, "store": None,
    }  # fmt: skip
    return types.SimpleNamespace(**usual | flags)


@pytest.fixture
def compiler(monkeypatch):
    """Records the cells that are compiled.

    `refuses` holds chips that compiling takes too long for, `programs` digests of cells whose
    program is another one now, `unlowered` cells that do not lower.
    """
    fake = types.SimpleNamespace(cells=[], refuses=set(), programs={}, unlowered=set())

    def digest(case, chip):
        return fake.programs.get((case.name, chip.name), f"{case.name} {chip.name}")

    def compile_case(module, case, chip, seconds):
        fake.cells.append((case.name, chip.name))
        if chip.name in fake.refuses:
            return compiled_case.Compiled(case, chip, "not compiled within 60 s")
        kernel = KernelSchedule("a", True, 90, 10, 0, (), 0.9, SLOTS, (7, 7), 1, 64, 1 << 20)
        step = CaseSchedule((kernel,), 100, compute=8e-6, hbm=1e-6, schedule=1e-5, done=1.0)
        return compiled_case.Compiled(
            case, chip, "", 1.5, 1 << 20, 300, 0, step, digest(case, chip)
        )

    def lower_cases(cells, seconds):
        digests = {(case.name, chip.name): digest(case, chip) for _, case, chip in cells}
        return {key: text for key, text in digests.items() if key not in fake.unlowered}

    monkeypatch.setattr(compiled_case, "compile_case", compile_case)
    monkeypatch.setattr(compiled_case, "lower_cases", lower_cases)
    monkeypatch.setattr(library, "find", lambda: None)
    return fake


def test_stored_rows_are_not_compiled_again(compiler, tmp_path):
    """An interrupted run continues; refused cases are tried again, and --again compiles all."""
    out = tmp_path / "page.md"
    compiler.refuses = {"v6e"}
    assert not compile_kernels.run(options(out=out))["ok"]
    assert "refused: not compiled within 60 s" in out.read_text()
    cells = [("small", "v5p"), ("large", "v5p"), ("small", "v6e"), ("large", "v6e")]
    assert compiler.cells == cells
    compiler.cells, compiler.refuses = [], set()
    assert compile_kernels.run(options(out=out))["ok"]
    assert compiler.cells == cells[2:] and "refused" not in out.read_text()
    compiler.cells = []
    compile_kernels.run(options(out=out, chip=["v5p"], case=["small"], again=True))
    assert compiler.cells == cells[:1]
    stored = json.loads(out.with_suffix(".json").read_text())
    assert sorted((row["case"], row["chip"]) for row in stored) == sorted(cells)


def test_rows_are_stored_where_the_flag_says(compiler, tmp_path):
    out, store = tmp_path / "page.md", tmp_path / "rows.json"
    compile_kernels.run(options(out=out, store=str(store)))
    assert len(json.loads(store.read_text())) == 4 and not out.with_suffix(".json").exists()
    compiler.cells = []
    compile_kernels.run(options(store=str(store)))
    assert not compiler.cells


def test_unfinished_page_states_missing_cells_and_keeps_its_notes(compiler, tmp_path, monkeypatch):
    out, pages = tmp_path / "page.md", []
    out.write_text("# Old\n\n## Notes\n\nBy hand.\n")
    render = schedule_page.render
    monkeypatch.setattr(
        schedule_page, "render", lambda *args: pages.append(render(*args)) or pages[-1]
    )
    compile_kernels.run(options(out=out))
    assert "**7 of 8 cells are not compiled yet.**" in pages[0]
    compile_kernels.run(options(out=out, chip=["v5e", "tpu7x"]))
    assert "cells are not compiled" not in pages[-1]
    assert all(page.endswith("## Notes\n\nBy hand.\n") for page in pages)
    assert out.read_text() == pages[-1]


def test_row_is_current_while_its_program_and_its_compilers_are_the_same(tmp_path):
    path, key = tmp_path / "rows.json", ("a", "v5p")
    installed = {"jax": "1", "jaxlib": "1", "libtpu": "1"}
    row = {"case": "a", "chip": "v5p", "refusal": "", "lowered": "l"}
    record.Record(path, {}).add(row | {"versions": installed | {"tokamax": "2"}})

    def current(lowered: str | None = "l", **versions: str) -> bool:
        rows = record.Record(path, installed | versions)
        rows.read()
        rows.compare([key], {} if lowered is None else {key: lowered})
        return rows.current(*key) is not None

    assert current() and current(tokamax="2") and current(unrelated="3")
    assert not current(jax="another") and not current(libtpu="2")
    assert not current(tokamax="another") and not current(lowered="m")
    # The mark is stored, and goes when the program is the stored one again.
    assert json.loads(path.read_text())[0]["outdated"] == "of an earlier program"
    assert current() and "outdated" not in json.loads(path.read_text())[0]
    # Without its library a case does not lower, and nothing shows that it has changed.
    assert current(lowered=None) and not current(lowered=None, tokamax="2")


def test_case_of_another_program_is_compiled_again(compiler, tmp_path):
    out = tmp_path / "page.md"
    compile_kernels.run(options(out=out))
    compiler.cells, compiler.programs = [], {("large", "v6e"): "another"}
    compile_kernels.run(options(out=out))
    assert compiler.cells == [("large", "v6e")] and "older" not in out.read_text()
    compiler.cells, compiler.unlowered = [], {("small", "v6e")}
    compile_kernels.run(options(out=out))
    assert compiler.cells == [("small", "v6e")]


def test_page_of_a_part_shows_all_stored_rows_and_marks_outdated_ones(compiler, tmp_path):
    out = tmp_path / "page.md"
    compile_kernels.run(options(out=out))
    whole = out.read_text()
    compiler.cells = []
    assert len(compile_kernels.run(options(out=out, chip=["v6e"], case=["small"]))["rows"]) == 1
    assert out.read_text() == whole and compiler.cells == []
    compiler.programs = {("large", "v5p"): "another"}
    compile_kernels.run(options(out=out, chip=["v6e"]))
    assert "**1 of 8 cells, marked (older)" in out.read_text()
    assert "| large (older) | v5p |" in out.read_text() and compiler.cells == []


def test_rows_of_other_libraries_stay_on_the_page(compiler, tmp_path):
    """Also if only ours are selected; with theirs, the version of the library is named."""
    out = tmp_path / "page.md"
    part = {"out": out, "cases_from": [], "chip": ["v6e"]}
    compile_kernels.run(options(**part, op=["reverse_kl"], peers=True))
    compile_kernels.run(options(**part, op=["latent_decode"]))
    page = out.read_text()
    assert "| jax_splash-fwd-bf16-8x8192 | v6e |" in page and "older" not in page
    assert ("tokamax" in page.splitlines()[3]) == bool(library.versions("tokamax"))
    assert "cells are not compiled yet" in page


def test_published_rows_have_a_program_a_method_and_versions():
    rows = json.loads((ROOT / "benchmarks" / "results" / "kernels_tpu.json").read_text())
    for row in rows:
        assert row["lowered"] and row["method"] == record.METHOD
        assert row["versions"].keys() >= set(provenance.COMPILERS)


@pytest.mark.slow
@pytest.mark.skipif(not libtpu(), reason="lowering for TPUs needs libtpu: make libtpu")
def test_published_rows_are_of_the_programs_that_the_kernels_lower_to():
    """About two minutes. Cases of libraries that are not installed are not compared."""
    flags = options(chip=list(chips.CHIPS), cases_from=[], peers=True)
    cells = compile_kernels._selected(flags)
    digests = compiled_case.lower_cases(cells, 600)
    rows = json.loads((ROOT / "benchmarks" / "results" / "kernels_tpu.json").read_text())
    stored = {(row["case"], row["chip"]): row["lowered"] for row in rows}
    assert len(digests) >= 60
    changed = {key for key, text in digests.items() if stored.get(key) != text}
    assert not changed, "run `make kernels-tpu`"


def test_unknown_ops_cases_and_modules_are_rejected(compiler):
    with pytest.raises(UserError, match="op 'no' has no cases to compile; choose from"):
        compile_kernels.run(options(cases_from=[], op=["no"]))
    with pytest.raises(UserError, match="have no case 'no'; choose from small, large"):
        compile_kernels.run(options(case=["no"]))
    with pytest.raises(UserError, match="--cases_from: No module named"):
        compile_kernels.run(options(cases_from=["tests.no_such_module"]))


@pytest.mark.parametrize(
    ("wanted", "cell"),
    [
        ({"useful": 0.75}, ">= 75% of the peak | 80.0% | met"),
        ({"useful": 0.85}, ">= 85% of the peak | 80.0% | **missed**"),
        ({"of_hbm": 10.5}, "<= 10.5 of the HBM time | 10.000 | met"),
        ({"of_hbm": 0.75}, "<= 0.75 of the HBM time | 10.000 | **missed**"),
    ],
)
def test_goals_table_shows_result_and_verdict(compiler, wanted, cell):
    case = cases("v5p")[0]
    row = compile_kernels._row(compiled_case.compile_case(MODULE, case, chips.CHIPS["v5p"], 1))
    page = schedule_page.render([row | {"wanted": wanted}], {"jax": "1"}, 1)
    assert f"| small | v5p | {cell} | MXU 90% |" in page


@pytest.mark.parametrize(("measure", "goal"), [("useful", ">= 75%"), ("of_hbm", "<= 0.75")])
def test_goal_of_a_case_without_a_kernel_is_marked(measure, goal):
    """Where XLA compiles everything there is no schedule."""
    plain = compiled_case.Compiled(cases("v5e")[0], chips.CHIPS["v5e"], "", xla_cycles=10)
    row = compile_kernels._row(plain) | {"wanted": {measure: 0.75}}
    [line] = [one for one in schedule_page.render([row], {}, 1).splitlines() if goal in one]
    assert "**no Pallas kernel**" in line


def test_xla_estimates_are_per_call():
    """Loops of known trip count are multiplied; a row with others states how many there are."""
    chip, case = chips.CHIPS["v5e"], cases("v5e")[0]
    cycles = 2 * case.flops / chip.peak * chip.clock
    known = compiled_case.Compiled(case, chip, "", xla_cycles=round(cycles))
    page = schedule_page.render([compile_kernels._row(known)], {}, 1)
    assert f"| small | v5e | {round(cycles):,} | 0.2 | 0.1 | 50% |" in page
    unknown = compiled_case.Compiled(case, chip, "", xla_cycles=round(cycles), unknown_loops=2)
    page = schedule_page.render([compile_kernels._row(unknown)], {}, 1)
    assert "2 loops of unknown length counted once | 0.2 | 0.1 |  |" in page
