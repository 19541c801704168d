"""The table of pods: its cells, and the page that is made of what was compiled."""

import json
import math
import subprocess
import sys
import types

import pytest

from ivx.aot import child, library, sources, topology
from ivx.commands import config_flag
from ivx.commands.compile import cells, made_from, pods, pods_page, step
from ivx.config import flatten
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


def test_cells_that_were_not_compiled_are_untested():
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
    # What is said of one is said of the other, whose program is the same.
    assert rows[0].removeprefix("| cpt") in text.split("| sft_short")[1].splitlines()[0]
    assert "60.0 of 64.0 (94%), **too much**" in text
    assert text.count("untested") == 4 * len(cells.CELLS) - 5
    # As they were read, of all four chips.
    assert "with latent heads 95% and 96% on v5e, 94% and 96% on v5p, 69% and 72% on v6e" in text


def test_rows_and_refusals_say_of_what_they_are():
    known = {"cpt v5p:4x4x4": FITS, "cpt v6e:16x16": REFUSED | {"answered": False}}
    ages = {"cpt v5p:4x4x4": "of earlier sources"}
    rows = pods_page.page(known, ages).splitlines()
    assert any("(50%), *of earlier sources* | 2.0 to 3.0" in row for row in rows)
    assert any(row.startswith("| cpt | v6e-256 | fsdp 8 | 1 | layer | no answer:") for row in rows)
    # And of the stage that is not compiled apart.
    assert sum("*of earlier sources* |" in row for row in rows) == 2


NOW = {"config": "c", "sources": "s", "versions": {"jax": "1", "libtpu": "2"}}


@pytest.mark.parametrize(
    ("then", "words"),
    [
        (NOW, ""),
        (None, "of earlier sources"),
        (NOW | {"sources": "t"}, "of earlier sources"),
        (NOW | {"config": "d"}, "of an earlier config"),
        (NOW | {"versions": {"jax": "1", "libtpu": "1"}}, "of other versions"),
        # Where the page is made there may be no libtpu.
        (NOW | {"versions": {"jax": "1"}}, ""),
    ],
)
def test_a_row_is_as_old_as_what_it_was_made_from(then, words):
    row = FITS if then is None else FITS | {"made_from": then}
    assert made_from.age(row, NOW) == words


def test_sources_differ_by_what_they_do(tmp_path):
    file = tmp_path / "one.py"
    file.write_text('"""Says."""\n\ndef f(a):\n    """Adds."""\n    return a + 1  # one\n')
    first = sources.digest([tmp_path], tmp_path)
    file.write_text('"""Says more."""\n# why\ndef f( a ):\n    return a + 1\n')
    assert sources.digest([file], tmp_path) == first
    file.write_text("def f(a):\n    return a + 2\n")
    assert sources.digest([file], tmp_path) != first
    file.write_text("def f(a):\n    return a + 1\n")
    file.rename(tmp_path / "other.py")
    assert sources.digest([tmp_path], tmp_path) != first


def test_a_step_is_made_from_its_config_and_from_sources_that_exist():
    config = cells.config("cpt", "v6e:16x16")
    found = made_from.now(config)
    assert found["versions"].keys() >= {"jax", "jaxlib", "python"}
    config.model.remat = "layer"
    assert made_from.now(config) == found | {"config": made_from.now(config)["config"]}
    assert made_from.now(config) != found
    # A folder that is not there would be passed over.
    assert all((ROOT / name).exists() for name in made_from.SOURCES + made_from.BESIDE)


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """A function that runs the command for one cell, and gives how often it compiled."""
    made = {"config": "c", "sources": "s", "reader": "r", "versions": {"jax": "1"}}
    monkeypatch.setattr(made_from, "now", lambda config: dict(made))
    answers = []

    def ask(config, place, asking, known=None):
        answers.append(known)
        return dict(run.answer)

    def run(**flags) -> int:
        answers.clear()
        given = {
            "store": str(tmp_path / "pods.json"), "stages": ["cpt"], "topologies": ["v5p:4x4x4"],
            "again": False, "outdated": False, "timeout": 1.0, "kernel_pace": 0.9,
            "slice_patches": 784, "teacher": "32b", "hlo": "", "part": "",
        }  # fmt: skip
        pods.run(types.SimpleNamespace(**given | flags))
        return len(answers)

    run.answer, run.made, run.page, run.answers = FITS, made, tmp_path / "pods.md", answers
    run.known = lambda: json.loads((tmp_path / "pods.json").read_text())["cpt v5p:4x4x4"]
    monkeypatch.setattr(step, "ask", ask)
    return run


def test_a_cell_of_earlier_sources_is_compiled_again_if_asked_to(compiled):
    assert (compiled(), compiled(), compiled(again=True)) == (1, 0, 1)
    compiled.made["sources"] = "t"
    assert compiled() == 0
    assert compiled.page.read_text().count("*of earlier sources* |") == 2
    assert (compiled(outdated=True), compiled(outdated=True)) == (1, 0)
    assert "*of earlier sources* |" not in compiled.page.read_text()


def test_a_program_that_is_lowered_to_the_same_is_not_compiled_again(compiled):
    """What reads it has to be the same, too; else, and with --again, nothing is handed over."""
    compiled.answer = FITS | {"lowered": "l"}
    compiled()
    compiled.made["sources"] = "t"
    compiled(outdated=True)
    [known] = compiled.answers
    assert known["lowered"] == "l" and known["memory"] == FITS["memory"]
    for part in ("reader", "config"):
        compiled.made |= {part: "u", "sources": part}
        assert compiled(outdated=True) == 1 and compiled.answers == [None]
    assert compiled(again=True) == 1 and compiled.answers == [None]


def test_what_is_known_of_the_same_program_stands(monkeypatch):
    config, place = cells.config("cpt", "v5p:4x4x4"), "v5p:4x4x4"
    asking = step.Asking(1.0, 0.9, 784, "32b")
    asked = []

    def answer(module, question, seconds):
        asked.append(question["known"])
        found = {"mesh": FITS["mesh"], "parameters": 8, "bytes": {}, "lowered": "l"}
        return child.Answer(found if question["known"] == "l" else found | {"memory": "new"})

    monkeypatch.setattr(child, "ask", answer)
    for known, memory in ((FITS | {"lowered": "l"}, FITS["memory"]), (FITS, "new"), (None, "new")):
        found = step.ask(config, place, asking, known)
        assert found["memory"] == memory and found["parameters"] == 8 and found["lowered"] == "l"
    assert asked == ["l", "", ""]


def test_an_answer_of_the_compiler_stands_until_sources_change(compiled):
    compiled.answer = REFUSED
    assert (compiled(), compiled()) == (1, 0)
    compiled.made["sources"] = "t"
    assert (compiled(), compiled()) == (1, 0)
    compiled.answer = REFUSED | {"answered": False, "refusal": "not compiled within 1 s"}
    assert (compiled(again=True), compiled(), compiled()) == (1, 1, 1)


def test_times_are_modelled_anew_without_compiling(compiled):
    compiled()
    assert compiled(kernel_pace=0.5, slice_patches=4) == 0
    found = compiled.known()
    assert found["estimate"]["kernel_pace"] == 0.5
    asking = step.Asking(1.0, 0.5, 4, "32b")
    assert found["flops"] == step.load(cells.config("cpt", "v5p:4x4x4"), asking)["flops"]


def test_kernels_whose_pace_is_not_known_leave_the_time_unknown():
    row = FITS | {"program": FITS["program"] | {"kernels": {"of_earlier_sources": 36}}}
    text = pods_page.page({"cpt v5p:4x4x4": step.price(dict(row), 0.9)})
    assert "32.0 of 64.0 (50%) | unknown | unknown |" in text


def test_the_page_alone_is_made_with_no_topology_asked_for(compiled):
    assert compiled(topologies=[]) == 0
    assert compiled.page.read_text().count("untested") == 4 * len(cells.CELLS)


@pytest.mark.parametrize("stage", cells.CELLS)
def test_cells_fit_their_topologies(stage):
    """Meshes make up the devices, and packs can be spread over them."""
    assert set(cells.CELLS[stage]) == set(cells.TOPOLOGIES)
    for place, (mesh, *changes) in cells.CELLS[stage].items():
        config = cells.preset(stage, mesh, changes)
        sizes = dict(one.split(":") for one in mesh.split(","))
        assert math.prod(map(int, sizes.values())) == topology.size(cells.place_of(stage, place))
        packs = config.data.batch_packs // config.optim.accumulation
        assert packs % int(sizes["fsdp"]) == 0


@pytest.mark.parametrize(("one", "other"), cells.SAME.items())
def test_stages_that_are_compiled_once_differ_in_the_schedule_alone(one, other):
    left, right = (
        flatten(config_flag.load(ROOT / "experiments" / f"{name}.py", "8b"))
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
def test_meshes_of_all_cells_are_laid_over_their_torus():
    """8 x 32 devices on a torus of 16 x 16, say, where an axis takes a part of a side."""
    asked = [
        (
            cells.place_of(stage, place),
            {axis: int(n) for axis, n in (one.split(":") for one in mesh.split(","))},
        )
        for stage, row in cells.CELLS.items()
        for place, (mesh, *_) in row.items()
    ]
    found = subprocess.run(
        [sys.executable, "-c", LAY_OUT, json.dumps(asked)],
        env=library.environment(library.find(), None),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines() == [f"{place} {topology.size(place)}" for place, _ in asked]
