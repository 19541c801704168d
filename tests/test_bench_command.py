"""`ivx bench`: times a training step without data. No test depends on the time."""

import json
import math

import jax
import numpy as np
import pytest

from data_pipelines import packing, random_pack
from experiments import opd, rl_gspo
from ivx.commands import bench
from ivx.parallel.mesh import AXES, make_mesh
from tests.command import ivx, refused


def small(stage_config):
    """The config with packs so short that a step takes little time."""
    stage_config.run.follows = ""
    stage_config.mesh.cpu_devices = 0
    stage_config.data.update(batch_packs=2, pack_tokens=64, pack_patches=48)
    return stage_config


def test_random_pack_is_full_and_consistent():
    shape = packing.PackShape(tokens=256, patches=144, slice_block=48)
    pack = random_pack.make(shape, vocabulary=100)
    assert (pack.segments == 1).all() and pack.tokens.max() < 100
    assert pack.slices.max() == 3 and (pack.slices > 0).all()
    visual = pack.visual_index[pack.visual_index >= 0]
    assert sorted(visual) == list(range(36))
    assert pack.weights[pack.visual_index >= 0].sum() == 0
    assert pack.weights.sum() == 256 - 36 - 1
    np.testing.assert_array_equal(pack.targets[:-1], pack.tokens[1:])
    # Rows and columns of every patch are inside its slice.
    assert (pack.grid[:, :2] < pack.grid[:, 2:]).all()


def test_random_pack_leaves_room_for_text():
    pack = random_pack.make(packing.PackShape(64, 4 * 64, 64), vocabulary=100)
    assert pack.weights.sum() > 0 and (pack.visual_index >= 0).sum() <= 56


def test_command_times_a_step():
    result = ivx(
        *("bench", "--config=cpt:tiny", "--steps=2", "--json", "--config.data.batch_packs=2"),
        *("--config.data.pack_tokens=64", "--config.data.pack_patches=48"),
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["step_ms_min"] <= report["step_ms"] <= report["step_ms_max"]
    assert report["parameters"] == 4_554_432 and report["devices"] == 2
    assert report["mfu"] is None and "MFU: unknown" in result.stdout
    assert math.isfinite(report["loss"]) and report["loss"] > 0


@pytest.mark.parametrize("name", ["rl_gspo", pytest.param("opd", marks=pytest.mark.slow)])
def test_update_step_of_policy_stage_is_timed(name):

    config = small({"rl_gspo": rl_gspo, "opd": opd}[name].get_config("tiny"))
    mesh = make_mesh(dict.fromkeys(AXES, 1) | {"fsdp": 2}, jax.devices()[:2])
    result = bench.bench(config, mesh, teacher="tiny", steps=1)
    assert math.isfinite(result["loss"]) and result["tokens_per_second"] > 0


def test_conversion_is_rejected():
    assert "no training step to time" in refused(ivx("bench", "--config=convert:tiny"))
    assert "no --config was given" in refused(ivx("bench"))
