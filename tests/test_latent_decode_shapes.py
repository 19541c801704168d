"""Absorbed decoding in random shapes drawn by hypothesis."""

import jax.numpy as jnp
import numpy as np
import pytest

from ivx.kernels.latent_decode import xla
from ivx.kernels.latent_decode.cache import LatentCache
from tests.test_latent_decode import (
    SCALE,
    E,
    N,
    R,
    draw_wide,
    expected,
    kernel,
    relative,
    wide_reference,
)

hypothesis = pytest.importorskip("hypothesis", reason="comes with ivx[test]")
st = hypothesis.strategies


@st.composite
def calls(draw) -> dict:
    """Sizes of a call; rows have any length that fits the new tokens, or no visible entries."""
    count = draw(st.integers(1, 4))
    room = draw(st.integers(count, 40))
    lengths = st.lists(st.integers(-count, room - count), min_size=1, max_size=3)
    return {
        "count": count,
        "room": room,
        "lengths": draw(lengths),
        "block": draw(st.integers(1, 48)),
    }


# Every shape is compiled.
@hypothesis.settings(max_examples=8, deadline=None, derandomize=True, database=None)
@hypothesis.given(call=calls())
def test_xla_matches_float64_in_any_shape(call):
    rng = np.random.default_rng(0)
    rows, lengths = len(call["lengths"]), np.array(call["lengths"])
    q = rng.normal(size=(rows, call["count"], N, E))
    entries = rng.normal(size=(rows, call["room"], E))
    written = np.arange(call["room"]) < lengths[:, None] + call["count"]
    poisoned = LatentCache(jnp.asarray(np.where(written[..., None], entries, np.nan), jnp.float32))
    arrays = jnp.asarray(q, jnp.float32), poisoned, jnp.asarray(lengths)
    found = xla.attend(*arrays, R, SCALE, call["block"])
    context, lse = expected(q, entries, lengths)
    assert relative(found.context, context) < 1e-5
    visible = lse > -1e29
    assert relative(np.where(visible, found.lse, 0), np.where(visible, lse, 0)) < 1e-5


@st.composite
def kernel_calls(draw) -> dict:
    """Sizes that the TPU kernel supports: capacity and blocks are multiples of 128."""
    count = draw(st.integers(1, 5))
    room = 128 * draw(st.integers(1, 5))
    lengths = st.lists(st.integers(-count, room - count), min_size=1, max_size=3)
    return {
        "count": count,
        "room": room,
        "lengths": draw(lengths),
        "block": 128 * draw(st.integers(1, 3)),
        "splits": draw(st.integers(1, 2)),
    }


@hypothesis.settings(max_examples=3, deadline=None, derandomize=True, database=None)
@hypothesis.given(call=kernel_calls())
def test_kernel_matches_float64_in_any_shape(call):
    lengths = call["lengths"]
    q, entries, poisoned = draw_wide(call["count"], call["room"], lengths)
    context, lse = wide_reference(q, entries, lengths)
    options = {name: call[name] for name in ("block", "splits")}
    found = kernel(q, LatentCache(poisoned), lengths, **options)
    assert relative(found.context, context) < 1e-5
    visible = lse > -1e29
    assert relative(np.where(visible, found.lse, 0), np.where(visible, lse, 0)) < 1e-5
