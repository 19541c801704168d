"""Absorbed decoding in shapes that nobody chose: hypothesis draws them."""

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
    """Sizes of a call; rows are of any length that their new tokens fit on, or see nothing."""
    count = draw(st.integers(1, 4))
    room = draw(st.integers(count, 40))
    lengths = st.lists(st.integers(-count, room - count), min_size=1, max_size=3)
    return {
        "count": count,
        "room": room,
        "lengths": draw(lengths),
        "block": draw(st.integers(1, 48)),
    }


# Every shape is compiled anew.
@hypothesis.settings(max_examples=8, deadline=None, derandomize=True, database=None)
@hypothesis.given(call=calls())
def test_any_shape_equals_the_equation(call):
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
    sees = lse > -1e29
    assert relative(np.where(sees, found.lse, 0), np.where(sees, lse, 0)) < 1e-5


@st.composite
def calls_of_a_kernel(draw) -> dict:
    """Sizes that the TPU kernel takes: a cache of whole tiles, in blocks of whole tiles."""
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


@hypothesis.settings(max_examples=4, deadline=None, derandomize=True, database=None)
@hypothesis.given(call=calls_of_a_kernel())
def test_the_kernel_in_any_shape(call):
    lengths = call["lengths"]
    q, entries, poisoned = draw_wide(call["count"], call["room"], lengths)
    context, lse = wide_reference(q, entries, lengths)
    options = {name: call[name] for name in ("block", "splits")}
    found = kernel(q, LatentCache(poisoned), lengths, **options)
    assert relative(found.context, context) < 1e-5
    sees = lse > -1e29
    assert relative(np.where(sees, found.lse, 0), np.where(sees, lse, 0)) < 1e-5
