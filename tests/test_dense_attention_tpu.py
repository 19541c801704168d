"""The Pallas kernels of dense attention, interpreted on a CPU, against float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from ivx.kernels import choice, dense_attention
from ivx.kernels.dense_attention import blocks, packed_visits, reference, tpu_backward
from ivx.kernels.dense_attention.visits import causal_key_range, list_visits
from tests.attention import QUICKLY, TOLERANCE, errors, normal, packs

INTERPRETERS = {"hlo": True, "tpu": pltpu.InterpretParams()}


@pytest.fixture
def small_blocks(monkeypatch):
    """Small blocks, so that few tokens have several; interpreted kernels are slow."""
    monkeypatch.setattr(blocks, "BLOCK", 256)
    monkeypatch.setattr(blocks, "TILE", 128)
    monkeypatch.setattr(tpu_backward, "BACKWARD_TILE", 128)


def inputs(length: int, heads: int, kv_heads: int, width: int) -> dict[str, np.ndarray]:
    return normal(
        length,
        q_btnh=(2, length, heads, width),
        k_btkh=(2, length, kv_heads, width),
        v_btkv=(2, length, kv_heads, 128),
    )


@pytest.mark.parametrize(
    ("segments", "heads", "kv_heads", "width", "dtype", "interpreter"),
    [
        (packs((300, 90, 1), (500,), length=500), 1, 1, 256, "float32", "hlo"),
        (packs((300, 90, 1), (500,), length=500), 1, 1, 256, "bfloat16", "hlo"),
        (packs((2,) * 100, (150,), length=300), 4, 2, 128, "float32", "hlo"),
        (packs((120, 10), (1,), length=130), 1, 1, 128, "float32", "tpu"),
    ],
    ids=["packs", "bfloat16", "hundreds, grouped heads", "tpu interpreter"],
)
def test_values_and_gradients_match_float64(
    small_blocks, segments, heads, kv_heads, width, dtype, interpreter
):
    given = {"segments_bt": segments, "scale": width**-0.5}
    with choice.force("tpu", INTERPRETERS[interpreter]):
        found = errors(
            functools.partial(dense_attention.causal_attention, **given),
            functools.partial(reference.causal_attention, **given),
            inputs(segments.shape[1], heads, kv_heads, width),
            dtype,
        )
    assert max(found.values()) < TOLERANCE[dtype], found


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_gradients_by_parts_equal_gradients_in_one_part(small_blocks, monkeypatch, kv_heads):
    """More queries than RESIDENT allows: three parts, of which the last is padded."""
    segments = packs((1100, 100), (700,), length=1280)
    given, arrays = {"segments_bt": segments, "scale": 0.1}, inputs(1280, 2, kv_heads, 128)

    def gradients():
        def loss(arrays):
            return (dense_attention.causal_attention(**arrays, **given) ** 2).sum()

        with choice.force("tpu", True):
            return jax.jit(lambda a: jax.grad(loss)(a), compiler_options=QUICKLY)(arrays)

    whole = gradients()
    # float32 and two output windows, for two blocks of 256.
    monkeypatch.setattr(tpu_backward, "RESIDENT", 2 // kv_heads * 2 * 256 * 128 * 12)
    assert tpu_backward.part_count((2, kv_heads, 2 // kv_heads, 1280, 128), 4) == 3
    for a, b in zip(jax.tree.leaves(gradients()), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_blocks_of_padding_get_zero_gradients(small_blocks):
    """Their uninitialized log-sum-exps must not enter a product: 0 times NaN is NaN."""
    length = 1024
    segments = packs((300,), (), length=length)
    q, k, v = (jnp.asarray(a.swapaxes(1, 2)) for a in inputs(length, 1, 1, 128).values())
    seen = causal_key_range(segments)
    real = (segments > 0)[:, None, None]
    # The forward kernel leaves rows without visits uninitialized.
    lse, delta = (jnp.where(real, a, jnp.nan) for a in (jnp.ones(real.shape), jnp.ones(real.shape)))
    d_out = jnp.where(real[..., None], v[:, :, None], 0)
    with choice.force("tpu", True):
        found = tpu_backward.backward(q[:, :, None], k, v, seen, 0.1, lse, delta, d_out)
    for gradient in found:
        padding = gradient.reshape(2, length, 128)[segments == 0]
        np.testing.assert_array_equal(padding, jnp.zeros_like(padding))
        assert jnp.isfinite(gradient).all()


def test_padding_has_no_effect(small_blocks):
    segments = packs((140,), (20,), length=300)
    clean = {name: jnp.asarray(a) for name, a in inputs(300, 1, 1, 128).items()}
    poisoned = {
        name: jnp.where((segments == 0)[..., None, None], jnp.nan, a) for name, a in clean.items()
    }

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    @jax.value_and_grad
    def loss(given):
        return (
            dense_attention.causal_attention(**given, segments_bt=segments, scale=0.1) ** 2
        ).sum()

    with choice.force("tpu", True):
        for a, b in zip(jax.tree.leaves(loss(clean)), jax.tree.leaves(loss(poisoned)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_fast_rising_maxima_do_not_overflow(small_blocks, monkeypatch):
    """Scores far above all earlier ones, in a block without a mask."""
    length = 768
    segments = packs((length,), length=length)
    arrays = {name: jnp.asarray(a[:1]) for name, a in inputs(length, 1, 1, 128).items()}
    arrays["k_btkh"] = arrays["k_btkh"].at[:, 256:512].multiply(40)

    def attend(headroom: float):
        monkeypatch.setattr(blocks, "HEADROOM", headroom)
        run = functools.partial(dense_attention.causal_attention, segments_bt=segments, scale=0.3)
        with choice.force("tpu", True):
            return jax.jit(lambda given: run(**given), compiler_options=QUICKLY)(arrays)

    always, usual, never = attend(-1.0), attend(blocks.HEADROOM), attend(jnp.inf)
    np.testing.assert_allclose(usual, always, rtol=1e-6, atol=1e-7)
    assert jnp.isfinite(usual).all()
    assert not jnp.isfinite(never).all()


def test_packed_visits_round_trip():
    """Also at the largest indices."""
    key_range = causal_key_range(packs((70, 58), (128,), length=128))
    found = list_visits(key_range, 128, 16, 32)
    last = packed_visits.MOST_BLOCKS - 1
    found = found._replace(
        batch=found.batch.at[0].set(packed_visits.MOST_BATCH - 1),
        query=found.query.at[0].set(last),
        key=found.key.at[0].set(last),
        empty=found.empty.at[0].set(True),
    )
    code = packed_visits.encode(found)
    for decode, expected in (
        (packed_visits.batch_of, found.batch),
        (packed_visits.query_of, found.query),
        (packed_visits.key_of, found.key),
        (packed_visits.is_masked, found.masked),
        (packed_visits.opens, found.opens),
        (packed_visits.closes, found.closes),
        (packed_visits.is_empty, found.empty),
    ):
        np.testing.assert_array_equal(decode(code), expected)


def test_unsupported_widths_fall_back_to_xla_with_a_warning(caplog):
    arrays = {name: jnp.asarray(a[..., :48]) for name, a in inputs(20, 1, 1, 128).items()}
    segments = packs((20,), (20,), length=20)
    choice._logged.clear()
    with choice.force("tpu", True), caplog.at_level("WARNING"):
        found = dense_attention.causal_attention(**arrays, segments_bt=segments, scale=0.1)
    assert "key width 48 and value width 48 must be multiples of 128" in caplog.text
    expected = dense_attention.causal_attention(**arrays, segments_bt=segments, scale=0.1)
    np.testing.assert_array_equal(found, expected)
