"""Rotary pairs: reordering by a product is as exact as by strided slices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivx.models import rope


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_rotated_pairs_equal_rotated_halves_exactly(dtype):
    x = jax.random.normal(jax.random.key(0), (2, 5, 3, 128)).astype(dtype)
    positions = jnp.tile(jnp.arange(5), (2, 3, 1))
    table = rope.text_rope(positions, 128, 5e6, (24, 20, 20))
    ordered = jnp.concatenate([x[..., 0::2], x[..., 1::2]], -1)
    actual, expected = rope.rotate_pairs(x, table), rope.rotate(ordered, table)
    np.testing.assert_array_equal(np.asarray(actual), np.asarray(expected))
