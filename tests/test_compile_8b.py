"""Steps of 8b at full width and depth: what is published, and what the TPU compiler returns."""

import dataclasses
import json

import ml_collections
import pytest

from benchmarks import provenance
from benchmarks.pods import grid
from ivx import from_config
from ivx.aot import arithmetic, topology
from ivx.aot.options import CompileOptions
from ivx.commands.compile import search, step
from ivx.kernels.latent_attention import ALIVE, heads_at_a_time
from tests.conftest import ROOT
from tests.test_aot import libtpu

OPTIONS = CompileOptions(timeout=3600, pace=0.9, slice_patches=784, teacher="32b")


def check(row: dict, config: ml_collections.ConfigDict, place: str) -> None:
    """Checks what the compiler returned for a step against what we promise for a pod."""
    assert not row["refusal"], row["refusal"]
    assert row["devices"] == topology.size(place)
    work = from_config.step_load.work(config, OPTIONS)
    assert row["parameters"] == work.parameters == 9_484_672_240
    assert search.fits(row)
    assert row["program"], "the compiler could not print the program"
    # Attention runs in the kernels and its output is saved: the forward kernel runs once for every
    # layer, group of heads and micro-batch.
    kernels, micro = row["program"]["kernels"], config.optim.accumulation
    tokens = work.packs * work.tokens // (config.mesh.fsdp * micro)
    groups = 32 // heads_at_a_time(32, ALIVE // tokens)
    assert kernels["dense_attention"] == kernels["dense_attention_backward"] == 36 * groups * micro
    assert {"vision_attention", "vision_attention_dkv"} <= kernels.keys()
    # The arithmetic that --search ranks settings by is close.
    sizes = config.mesh
    setting = arithmetic.Setting(sizes.fsdp, sizes.tensor, sizes.context, micro, config.model.remat)
    estimate = sum(arithmetic.memory(work, setting).values())
    assert row["memory"]["peak"] == pytest.approx(estimate, rel=0.35)
    # The page shows temporaries as the rest of the peak.
    assert row["memory"]["peak"] > row["memory"]["arguments"] + row["memory"]["results"]


def published() -> dict[str, dict]:
    return json.loads((ROOT / "benchmarks" / "results" / "pods.json").read_text())


def test_published_step_fits_a_pod_and_runs_its_kernels():
    place = "v6e:16x16"
    row = published()[grid.key("cpt", place)]
    check(row, grid.preset("cpt", row["asked"]["mesh"], row["asked"]["changes"]), place)


@pytest.mark.slow
@pytest.mark.skipif(not libtpu(), reason="compiling for TPUs needs libtpu: make libtpu")
def test_update_of_rl_compiles_for_a_pod_and_fits():
    """The training step that compiles fastest: some minutes, and 6 GB."""
    place = "v5e:16x16"
    config = grid.config("rl_gspo", place)
    check(step.compile_step(config, place, OPTIONS), config, place)


@pytest.mark.slow
@pytest.mark.skipif(not libtpu(), reason="lowering for TPUs needs libtpu: make libtpu")
@pytest.mark.parametrize("place", grid.TOPOLOGIES)
@pytest.mark.parametrize("stage", [stage for stage in grid.CELLS if stage not in grid.SAME])
def test_published_rows_are_of_the_programs_that_the_code_lowers_to(stage, place):
    """Some 15 seconds a cell. A row that is marked outdated need not match."""
    row = published()[grid.key(stage, place)]
    options = dataclasses.replace(OPTIONS, part=grid.part_of(stage))
    answer = step.lower_step(grid.config(stage, place), grid.place_of(stage, place), options)
    assert not answer.refusal
    difference = provenance.difference(row, answer.found["lowered"], provenance.versions())
    assert difference == row.get("outdated", ""), "run `python -m benchmarks pods`"


@pytest.mark.slow
@pytest.mark.skipif(not libtpu(), reason="lowering for TPUs needs libtpu: make libtpu")
@pytest.mark.parametrize(("stage", "other"), grid.SAME.items())
def test_stages_that_share_a_row_lower_to_the_same_program(stage, other):
    place = "v6e:16x16"
    mesh, *changes = grid.CELLS[stage][place]
    digests = {
        name: step.lower_step(grid.preset(name, mesh, changes), place, OPTIONS).found["lowered"]
        for name in (stage, other)
    }
    assert digests[stage] == digests[other]
