"""The grid of pods: its cells, which of them are compiled again, and the page of the results."""

import json
import math
import subprocess
import sys
import types

import pytest

from benchmarks import provenance
from benchmarks.pods import compile_pods, grid, pods_page
from ivx import from_config
from ivx.aot import child, library, pricing, topology
from ivx.aot.options import CompileOptions
from ivx.commands import experiments
from ivx.commands.compile import step
from ivx.config import flatten
from ivx.errors import UserError
from tests.conftest import ROOT
from tests.test_aot import libtpu

FITS = {
    "ok": True, "refusal": "", "answered": True, "mesh": {"fsdp": 64, "tensor": 1},
    "accumulation": 2, "remat": "attention", "lower_seconds": 6.0, "compile_seconds": 60.0,
    "capacity": 2**36,
    "memory": {"peak": 2**35, "arguments": 2**33, "temporaries": 2**37, "results": 2**30},
    "topology": "v5p:4x4x4", "devices": 64,
    "program": {
        "collectives": [{"kind": "all-gather", "axes": "fsdp", "times": 1, "bytes": 2**31}],
        "kernels": {"dense_attention": 36},
        "cycles": 7,
        "unknown_loops": 2,
    },
    "flops": {"attention": 3.0, "vision attention": 3.0},
    "estimate": {
        "hidden": 2.0, "exposed": 3.0, "mfu_hidden": 0.5, "mfu_exposed": 0.33,
        "cycles": 1.0, "kernels": 1.0, "exchange": {"fsdp": 1.0}, "kernel_pace": 0.9,
    },
}  # fmt: skip
REFUSED = {
    "ok": False, "refusal": "Ran out", "answered": True, "mesh": {"fsdp": 8}, "accumulation": 1,
    "remat": "layer",
}  # fmt: skip


def test_cells_that_were_never_compiled_are_untested():
    fits, refused = FITS, REFUSED
    full = fits | {"memory": fits["memory"] | {"peak": 15 * 2**32}}
    text = pods_page.page({"cpt v5p:4x4x4": fits, "cpt v6e:16x16": refused, "opd v5p:4x4x4": full})
    rows = [line for line in text.splitlines() if line.startswith("| cpt")]
    assert "fsdp 64 | 2 | attention | 32.0 of 64.0 (50%) | 2.0 to 3.0 | 0.50 to 0.33 |" in rows[0]
    assert "does not compile: Ran out" in rows[1]
    assert rows[2] == "| cpt | v5e-256 | | | | untested | | |"
    assert rows[4] == (
        "| cpt | v5p-128 | 8.00 | 23.00 | 1.00 | 1.00 | fsdp 2.0 (1.00 s) | dense_attention x36 | 2"
        " | 66 s |"
    )
    # A stage that runs the same program shows the same row.
    assert rows[0].removeprefix("| cpt") in text.split("| sft_short")[1].splitlines()[0]
    assert "60.0 of 64.0 (94%), **too much**" in text
    assert text.count("untested") == 4 * len(grid.CELLS) - 5
    # Paces as they were read from the schedules of all four chips.
    assert "with latent heads 95% and 96% on v5e, 94% and 96% on v5p, 69% and 72% on v6e" in text


def test_page_marks_outdated_rows_and_missing_answers():
    outdated = FITS | {"outdated": "of an earlier program"}
    known = {"cpt v5p:4x4x4": outdated, "cpt v6e:16x16": REFUSED | {"answered": False}}
    rows = pods_page.page(known).splitlines()
    assert any("(50%), *of an earlier program* | 2.0 to 3.0" in row for row in rows)
    assert any(row.startswith("| cpt | v6e-256 | fsdp 8 | 1 | layer | no answer:") for row in rows)
    # And for the stage that runs the same program.
    assert sum("*of an earlier program* |" in row for row in rows) == 2


NOW = {"jax": "1", "jaxlib": "1", "libtpu": "2"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"lowered": "l", "versions": NOW}, ""),
        ({"lowered": "m", "versions": NOW}, "of an earlier program"),
        ({"versions": NOW}, "of an earlier program"),
        ({"lowered": "l", "versions": NOW | {"libtpu": "1"}}, "of other versions"),
        ({"lowered": "l", "versions": {"jax": "1", "jaxlib": "1"}}, "of other versions"),
        # Another library's version is compared where it is installed.
        ({"lowered": "l", "versions": NOW | {"tokamax": "1"}}, ""),
    ],
)
def test_row_is_outdated_when_its_program_or_a_compiler_differs(row, reason):
    assert provenance.difference(row, "l", NOW) == reason


def test_another_library_is_compared_if_installed():
    row = {"lowered": "l", "versions": NOW | {"tokamax": "1"}}
    assert provenance.difference(row, "l", NOW | {"tokamax": "2"}) == "of other versions"
    assert not provenance.difference(row, "l", NOW | {"tokamax": "1", "unrelated": "3"})


def test_published_rows_have_a_program_and_versions():
    rows = json.loads((ROOT / "benchmarks" / "results" / "pods.json").read_text())
    assert rows.keys() == {
        grid.key(stage, place) for stage in grid.CELLS for place in grid.TOPOLOGIES
    }
    for row in rows.values():
        assert row["lowered"] and row["versions"].keys() == set(provenance.COMPILERS)


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """A function that runs the command for one cell and returns how many compilations it made.

    `run.lowered` is the digest of the program now, `run.versions` are the installed versions, and
    `run.answer` is what the compiler returns.
    """
    calls = types.SimpleNamespace(compiled=0, lowered=0)

    def ask(config, place, options):
        calls.compiled += 1
        return dict(run.answer) | {"lowered": run.lowered}

    def lower(config, place, options):
        calls.lowered += 1
        assert place == "v5p:4x4x4"
        return run.lowering or child.Answer({"lowered": run.lowered})

    def run(**flags) -> int:
        calls.compiled = calls.lowered = 0
        usual = {
            "store": str(tmp_path / "pods.json"), "page": str(tmp_path / "pods.md"),
            "stages": ["cpt"], "topologies": ["v5p:4x4x4"],
            "again": False, "outdated": False, "timeout": 1.0, "kernel_pace": 0.9,
            "slice_patches": 784, "teacher": "32b", "hlo": "", "part": "",
        }  # fmt: skip
        compile_pods.run(types.SimpleNamespace(**usual | flags))
        return calls.compiled

    run.answer, run.lowered, run.lowering, run.versions = FITS, "l", None, dict(NOW)
    run.page, run.calls = tmp_path / "pods.md", calls
    run.row = lambda: json.loads((tmp_path / "pods.json").read_text())["cpt v5p:4x4x4"]
    monkeypatch.setattr(step, "compile_step", ask)
    monkeypatch.setattr(step, "lower_step", lower)
    monkeypatch.setattr(provenance, "versions", lambda: dict(run.versions))
    monkeypatch.setattr(library, "find", lambda: None)
    return run


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"lowered": "m"}, "of an earlier program"),
        ({"versions": NOW | {"libtpu": "3"}}, "of other versions"),
    ],
)
def test_outdated_cell_is_compiled_again_on_request(compiled, change, reason):
    assert (compiled(), compiled(), compiled(again=True)) == (1, 0, 1)
    for name, value in change.items():
        setattr(compiled, name, value)
    assert compiled() == 0 and compiled.row()["outdated"] == reason
    assert compiled.page.read_text().count(f"*{reason}* |") == 2
    # The store remembers the mark where nothing is lowered.
    assert compiled(topologies=[]) == 0 and compiled.calls.lowered == 0
    assert compiled.page.read_text().count(f"*{reason}* |") == 2
    assert (compiled(outdated=True), compiled(outdated=True)) == (1, 0)
    assert f"*{reason}* |" not in compiled.page.read_text()
    row = compiled.row()
    assert row["lowered"] == compiled.lowered and row["versions"] == compiled.versions


def test_mark_is_removed_when_the_program_is_the_stored_one_again(compiled):
    compiled()
    compiled.lowered = "m"
    compiled()
    assert compiled.row()["outdated"]
    compiled.lowered = "l"
    assert compiled() == 0 and "outdated" not in compiled.row()


def test_program_that_cannot_be_lowered_leaves_its_row_as_it_is(compiled, capsys):
    compiled()
    row = compiled.row()
    compiled.lowering = child.Answer({}, "not compiled within 1 s", answered=False)
    assert compiled(outdated=True) == 0 and compiled.row()["lowered"] == row["lowered"]
    assert "outdated" not in compiled.row()
    assert "could not be lowered: not compiled within 1 s" in capsys.readouterr().out


def test_without_libtpu_the_page_shows_the_store(compiled, monkeypatch, capsys):
    def find():
        raise UserError("compiling for TPUs needs libtpu")

    compiled()
    monkeypatch.setattr(library, "find", find)
    compiled.lowered = "m"
    assert compiled() == 0 and compiled.calls.lowered == 0
    assert "outdated" not in compiled.row()
    assert "the page shows the store: compiling for TPUs needs" in capsys.readouterr().out


@pytest.mark.parametrize("lower_only", [True, False])
def test_child_lowers_the_program_and_compiles_it_unless_told_not_to(monkeypatch, lower_only):
    config, place = grid.config("cpt", "v5p:4x4x4"), "v5p:4x4x4"
    options = CompileOptions(1.0, 0.9, 784, "32b")

    def answer(module, question, seconds):
        assert question["lower_only"] == lower_only and question["topology"] == place
        found = {"mesh": FITS["mesh"], "parameters": 8, "bytes": {}, "lowered": "l"}
        return child.Answer(found if question["lower_only"] else found | {"memory": "new"})

    monkeypatch.setattr(child, "ask", answer)
    if lower_only:
        assert step.lower_step(config, place, options).found["lowered"] == "l"
    else:
        result = step.compile_step(config, place, options)
        assert result["memory"] == "new" and result["parameters"] == 8 and result["ok"]


def test_refusal_of_the_compiler_stands_until_the_program_changes(compiled):
    compiled.answer = REFUSED
    assert (compiled(), compiled()) == (1, 0)
    compiled.lowered = "m"
    assert (compiled(), compiled()) == (1, 0)
    compiled.answer = REFUSED | {"answered": False, "refusal": "not compiled within 1 s"}
    assert (compiled(again=True), compiled(), compiled()) == (1, 1, 1)


def test_modelled_times_are_computed_anew_without_compiling(compiled):
    compiled()
    assert compiled(kernel_pace=0.5, slice_patches=4) == 0
    row = compiled.row()
    assert row["estimate"]["kernel_pace"] == 0.5
    options = CompileOptions(1.0, 0.5, 4, "32b")
    assert (
        row["flops"]
        == from_config.step_load.load(grid.config("cpt", "v5p:4x4x4"), options)["flops"]
    )


def test_kernels_of_unknown_pace_leave_the_time_unknown():
    row = FITS | {"program": FITS["program"] | {"kernels": {"of_earlier_sources": 36}}}
    text = pods_page.page({"cpt v5p:4x4x4": pricing.price(dict(row), 0.9)})
    assert "32.0 of 64.0 (50%) | unknown | unknown |" in text


def test_without_topologies_only_the_page_is_written(compiled):
    assert compiled(topologies=[]) == 0
    assert compiled.page.read_text().count("untested") == 4 * len(grid.CELLS)


@pytest.mark.parametrize("stage", grid.CELLS)
def test_meshes_of_cells_cover_their_devices_and_divide_the_packs(stage):
    assert set(grid.CELLS[stage]) == set(grid.TOPOLOGIES)
    for place, (mesh, *changes) in grid.CELLS[stage].items():
        config = grid.preset(stage, mesh, changes)
        sizes = dict(size.split(":") for size in mesh.split(","))
        assert math.prod(map(int, sizes.values())) == topology.size(grid.place_of(stage, place))
        packs = config.data.batch_packs // config.optim.accumulation
        assert packs % int(sizes["fsdp"]) == 0


@pytest.mark.parametrize(("one", "other"), grid.SAME.items())
def test_stages_that_share_a_program_differ_in_the_schedule_alone(one, other):
    left, right = (
        flatten(experiments.load(ROOT / "experiments" / f"{name}.py", "8b"))
        for name in (one, other)
    )
    absent = object()
    differing = {key for key in left | right if left.get(key, absent) != right.get(key, absent)}
    schedule = {"optim.learning_rate", "optim.floor", "optim.warmup", "data.train"}
    assert all(key in schedule or key.startswith("run.") for key in differing)


LAY_OUT = """
import json, sys
from ivx.aot import topology
from ivx.parallel.mesh import AXES, make_mesh
for place, sizes in json.loads(sys.argv[1]):
    mesh = make_mesh(dict.fromkeys(AXES, 1) | sizes, topology.devices(place))
    print(place, mesh.size)
"""


@pytest.mark.skipif(not libtpu(), reason="compiling for TPUs needs libtpu: make libtpu")
def test_meshes_of_all_cells_map_to_their_torus():
    """For example 8 x 32 devices on a torus of 16 x 16, where an axis takes part of a side."""
    meshes = [
        (
            grid.place_of(stage, place),
            {axis: int(n) for axis, n in (size.split(":") for size in mesh.split(","))},
        )
        for stage, row in grid.CELLS.items()
        for place, (mesh, *_) in row.items()
    ]
    process = subprocess.run(
        [sys.executable, "-c", LAY_OUT, json.dumps(meshes)],
        env=library.environment(library.find(), None),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == [f"{place} {topology.size(place)}" for place, _ in meshes]
