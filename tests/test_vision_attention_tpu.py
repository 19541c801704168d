"""The Pallas kernels of vision attention, interpreted on a CPU, against float64."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.pallas import tpu as pltpu

from ivx.kernels import choice
from ivx.kernels.vision_attention import tpu, tpu_tiles, vision_attention, visits
from ivx.parallel.mesh import make_mesh
from tests.test_vision_attention import PACKS, check, lay


@pytest.fixture
def small_tiles(monkeypatch):
    """Small tiles, so that few rows have several; interpreted kernels are slow."""
    monkeypatch.setattr(tpu_tiles, "TILE", 128)


@pytest.mark.parametrize("name", ["over tiles", "hundreds", "empty"])
def test_values_and_gradients_match_float64(small_tiles, name):
    """With NaN in padding, and with tiles of padding only."""
    with choice.force("tpu", interpret=True):
        check(*PACKS[name])


def test_bfloat16_matches_float64(small_tiles):
    with choice.force("tpu", interpret=True):
        check(*PACKS["over tiles"], jnp.bfloat16, 1e-2)


def test_kernels_match_float64_in_the_tpu_interpreter(small_tiles):
    """Two heads of the tower's width; the grid is as long as the list of visits."""
    with choice.force("tpu", interpret=pltpu.InterpretParams()):
        check(*PACKS["padding"], heads=2, width=72)


def test_packs_with_too_many_visits_run_one_by_one(small_tiles, monkeypatch):
    slices, block = PACKS["padding"]
    monkeypatch.setattr(visits, "MOST_PAIRS", visits.max_pairs(slices.shape[1], 128, block))
    with choice.force("tpu", interpret=True):
        check(slices, block)


def test_constraint_names_unsupported_shapes():
    patches = jax.ShapeDtypeStruct((1, 262_144, 16, 72), jnp.bfloat16)
    assert tpu.constraint(patches, 16_384) == ""
    assert "may need 1048576 visits" in tpu.constraint(patches, 262_144)
    shape = (1, 8, 2, 72)
    assert "float16 is neither" in tpu.constraint(jnp.zeros(shape, jnp.float16), 8)
    assert "head width 130" in tpu.constraint(jnp.zeros((1, 8, 2, 130)), 8)


def test_constraint_applies_to_the_shard_of_a_device(caplog):
    """A million rows need too many visits, an eighth of them do not."""
    patches = jax.ShapeDtypeStruct((1, 1 << 20, 16, 72), jnp.bfloat16)
    slices = jax.ShapeDtypeStruct((1, 1 << 20), jnp.int32)

    def warning(context: int) -> str:
        sizes = {"replica": 1, "fsdp": 1, "tensor": 1, "context": context}
        mesh = make_mesh(sizes, jax.devices()[:context])
        choice._logged.clear()
        caplog.clear()
        with choice.force("tpu", interpret=True), caplog.at_level("WARNING"), jax.set_mesh(mesh):
            jax.eval_shape(
                lambda *a: vision_attention(*a, 16_384), patches, patches, patches, slices
            )
        return caplog.text

    assert "1048576 rows in blocks of 16384 may need 262144 visits" in warning(1)
    assert warning(8) == ""


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["xla", "tpu"])
def test_slices_of_up_to_8192_rows_match_float64(implementation):
    """With the real tile sizes of the TPU kernels (interpreted) and of XLA."""
    slices = lay([8192, 1764, 1, 4000, 1764], 8192, 3 * 8192)[None]
    with choice.force(implementation, interpret=True):
        check(slices, 8192, heads=1, width=72)
