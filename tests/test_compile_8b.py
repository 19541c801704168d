"""The whole step of 8b, at its full width and depth, through the compiler for TPUs."""

import json

import pytest

from ivx.aot import arithmetic, topology
from ivx.commands.compile import cells, search, step
from ivx.kernels.latent_attention import ALIVE, heads_at_a_time
from tests.conftest import ROOT
from tests.test_aot import libtpu

ASKING = step.Asking(timeout=3600, pace=0.9, slice_patches=784, teacher="32b")


def check(found: dict, config, place: str) -> None:
    """What a pod is promised of a stage, by what the compiler said of its step."""
    assert not found["refusal"], found["refusal"]
    assert found["devices"] == topology.size(place)
    work = search.work(config, ASKING)
    assert found["parameters"] == work.parameters == 9_484_672_240
    assert search.fits(found)
    assert found["program"], "the compiler could not print the program, so that it cannot be read"
    # Attention is the kernels', and what it gave is kept: it runs forward once, for every layer,
    # group of heads and micro-batch.
    kernels, micro = found["program"]["kernels"], config.optim.accumulation
    tokens = work.packs * work.tokens // (config.mesh.fsdp * micro)
    groups = 32 // heads_at_a_time(32, ALIVE // tokens)
    assert kernels["dense_attention"] == kernels["dense_attention_backward"] == 36 * groups * micro
    assert {"vision_attention", "vision_attention_dkv"} <= kernels.keys()
    # Arithmetic, by which settings are tried, is not far off.
    sizes = config.mesh
    setting = arithmetic.Setting(sizes.fsdp, sizes.tensor, sizes.context, micro, config.model.remat)
    guessed = sum(arithmetic.memory(work, setting).values())
    assert found["memory"]["peak"] == pytest.approx(guessed, rel=0.35)
    # Temporaries are told as what is left of the peak.
    assert found["memory"]["peak"] > found["memory"]["arguments"] + found["memory"]["results"]


def test_what_was_compiled_and_is_published_keeps_the_promise():
    place = "v6e:16x16"
    known = json.loads((ROOT / "docs" / "results" / "pods.json").read_text())
    row = known[cells.key("cpt", place)]
    check(row, cells.preset("cpt", row["asked"]["mesh"], row["asked"]["changes"]), place)


@pytest.mark.slow
@pytest.mark.skipif(not libtpu(), reason="compiling for TPUs needs libtpu: make libtpu")
def test_an_update_of_rl_compiles_for_a_pod_and_fits():
    """The quickest of the training steps to compile: some minutes, and 6 GB."""
    place = "v5e:16x16"
    config = cells.config("rl_gspo", place)
    check(step.ask(config, place, ASKING), config, place)
