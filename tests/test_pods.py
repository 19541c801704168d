"""The table of pods: its cells, and the page that is made of what was compiled."""

import json
import math
import subprocess
import sys

import pytest

from ivx.aot import library, topology
from ivx.commands import config_flag
from ivx.commands.compile import cells, pods_page
from ivx.config import flatten
from tests.conftest import ROOT
from tests.test_aot import libtpu


def test_cells_that_were_not_compiled_are_untested():
    fits = {
        "ok": True, "refusal": "", "mesh": {"fsdp": 64, "tensor": 1}, "capacity": 2**36,
        "accumulation": 2, "remat": "attention", "lower_seconds": 6.0, "compile_seconds": 60.0,
        "memory": {"peak": 2**35, "arguments": 2**33, "temporaries": 2**34},
        "program": {
            "collectives": [{"axes": "fsdp", "bytes": 2**31}],
            "kernels": {"one": 36},
            "unknown_loops": 2,
        },
        "estimate": {
            "hidden": 2.0, "exposed": 3.0, "mfu_hidden": 0.5, "mfu_exposed": 0.33,
            "cycles": 1.0, "kernels": 1.0, "exchange": {"fsdp": 1.0}, "kernel_pace": 0.9,
        },
    }  # fmt: skip
    refused = {
        "ok": False, "refusal": "Ran out", "mesh": {"fsdp": 8}, "accumulation": 1, "remat": "layer"
    }  # fmt: skip
    full = fits | {"memory": fits["memory"] | {"peak": 15 * 2**32}}
    text = pods_page.page({"cpt v5p:4x4x4": fits, "cpt v6e:16x16": refused, "opd v5p:4x4x4": full})
    rows = [line for line in text.splitlines() if line.startswith("| cpt")]
    assert "fsdp 64 | 2 | attention | 32.0 of 64.0 (50%) | 2.0 to 3.0 | 0.50 to 0.33 |" in rows[0]
    assert "does not compile: Ran out" in rows[1]
    assert rows[2] == "| cpt | v5e-256 | | | | untested | | |"
    assert rows[4] == (
        "| cpt | v5p-128 | 8.00 | 16.00 | 1.00 | 1.00 | fsdp 2.0 (1.00 s) | one x36 | 2 | 66 s |"
    )
    # What is said of one is said of the other, whose program is the same.
    assert rows[0].removeprefix("| cpt") in text.split("| sft_short")[1].splitlines()[0]
    assert "60.0 of 64.0 (94%), **too much**" in text
    assert text.count("untested") == 4 * 6 - 5


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
    differing = {key for key in left if left[key] != right[key]}
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
