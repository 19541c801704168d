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
    """Several tiles in few rows; interpreted kernels are slow."""
    monkeypatch.setattr(tpu_tiles, "TILE", 128)


@pytest.mark.parametrize("name", ["over tiles", "hundreds", "empty"])
def test_values_and_gradients(small_tiles, name):
    """NaN in padding is part of it, and tiles of nothing but padding."""
    with choice.force("tpu", interpret=True):
        check(*PACKS[name])


def test_bf16(small_tiles):
    with choice.force("tpu", interpret=True):
        check(*PACKS["over tiles"], jnp.bfloat16, 1e-2)


def test_the_interpreter_that_knows_memories_and_transfers(small_tiles):
    """Heads as wide as the tower's, in groups of two; a grid as long as the list of visits."""
    with choice.force("tpu", interpret=pltpu.InterpretParams()):
        check(*PACKS["padding"], heads=2, width=72)


def test_packs_one_by_one_where_their_visits_are_too_many(small_tiles, monkeypatch):
    slices, block = PACKS["padding"]
    monkeypatch.setattr(visits, "MOST_PAIRS", visits.room(slices.shape[1], 128, block))
    with choice.force("tpu", interpret=True):
        check(slices, block)


def test_what_the_kernels_do_not_take_is_said():
    patches = jax.ShapeDtypeStruct((1, 262_144, 16, 72), jnp.bfloat16)
    assert tpu.constraint(patches, 16_384) == ""
    assert "may need 1048576 visits" in tpu.constraint(patches, 262_144)
    shape = (1, 8, 2, 72)
    assert "float16 is neither" in tpu.constraint(jnp.zeros(shape, jnp.float16), 8)
    assert "heads 130 wide" in tpu.constraint(jnp.zeros((1, 8, 2, 130)), 8)


def test_what_counts_is_a_device_s_share(caplog):
    """A million rows are more visits than a kernel takes, an eighth of them are not."""
    patches = jax.ShapeDtypeStruct((1, 1 << 20, 16, 72), jnp.bfloat16)
    slices = jax.ShapeDtypeStruct((1, 1 << 20), jnp.int32)

    def warning(context: int) -> str:
        sizes = {"replica": 1, "fsdp": 1, "tensor": 1, "context": context}
        mesh = make_mesh(sizes, jax.devices()[:context])
        choice._told.clear()
        caplog.clear()
        with choice.force("tpu", interpret=True), caplog.at_level("WARNING"), jax.set_mesh(mesh):
            jax.eval_shape(
                lambda *a: vision_attention(*a, 16_384), patches, patches, patches, slices
            )
        return caplog.text

    assert "1048576 rows in blocks of 16384 may need 262144 visits" in warning(1)
    assert warning(8) == ""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["xla", "tpu"])
def test_slices_of_up_to_8192_rows(way):
    """In the tiles that a TPU has, interpreted, and in those of XLA."""
    slices = lay([8192, 1764, 1, 4000, 1764], 8192, 3 * 8192)[None]
    with choice.force(way, interpret=True):
        check(slices, 8192, heads=1, width=72)
