"""Dense attention against float64, for all kinds of packs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivx.kernels import dense_attention
from ivx.kernels.dense_attention import reference, xla
from ivx.kernels.dense_attention.visits import causal_key_range, list_visits
from tests.attention import TOLERANCE, errors, normal, packs

N, K, H, V = 4, 2, 16, 8
PACKS = {
    "one token": packs((1,), (1,), length=1),
    "padding": packs((90, 60), (150, 139), length=300),
    "hundreds": packs((1,) * 200, (3,) * 200, length=601),
    "blocks of samples": packs((256,) * 3, (300, 300), length=768),
    "nothing": packs((0,), (3,), length=5),
}


def inputs(length: int, kv_heads: int = K) -> dict[str, np.ndarray]:
    return normal(
        length,
        q_btnh=(2, length, N, H),
        k_btkh=(2, length, kv_heads, H),
        v_btkv=(2, length, kv_heads, V),
    )


@pytest.mark.parametrize(
    ("pack", "dtype"), [*((pack, "float32") for pack in PACKS), ("padding", "bfloat16")]
)
def test_values_and_gradients_match_float64(pack, dtype):
    segments = PACKS[pack]
    options = {"segments_bt": segments, "scale": H**-0.5}
    found = errors(
        functools.partial(dense_attention.causal_attention, **options),
        functools.partial(reference.causal_attention, **options),
        inputs(segments.shape[1]),
        dtype,
    )
    assert max(found.values()) < TOLERANCE[dtype], found


def test_padding_has_no_effect():
    """NaN in padding changes no value and no gradient."""
    segments = packs((90, 60), (150, 139), length=300)
    clean = {name: jnp.asarray(a) for name, a in inputs(300).items()}
    padding = (segments == 0)[..., None, None]
    poisoned = {name: jnp.where(padding, jnp.nan, a) for name, a in clean.items()}

    @jax.jit
    @jax.value_and_grad
    def loss(arrays):
        return (
            dense_attention.causal_attention(**arrays, segments_bt=segments, scale=0.3) ** 2
        ).sum()

    for a, b in zip(jax.tree.leaves(loss(clean)), jax.tree.leaves(loss(poisoned)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_visits_are_the_pairs_of_blocks_with_a_visible_key():
    """Against the full mask, in both orders; fully visible blocks need no mask.

    By key, a key block without queries is visited once, with the first queries.
    """
    segments = packs((5, 40, 3), (64,), (1, 1), length=64)
    query_block, key_block = 8, 16
    key_range = causal_key_range(segments)
    segments = np.asarray(segments)
    earlier = np.tril(np.ones((64, 64), bool))
    same = (segments[:, :, None] == segments[:, None]) & (segments > 0)[:, :, None]
    blocks = (earlier & same).reshape(3, 8, query_block, 4, key_block)
    some, every = blocks.any((2, 4)), blocks.all((2, 4))
    for by_key in (False, True):
        found = list_visits(key_range, 64, query_block, key_block, by_key=by_key)
        count = int(found.count)
        if by_key:
            some[:, 0] |= ~some.any(1)
        triples = np.stack([found.batch, found.query, found.key], 1)[:count]
        expected = np.argwhere(some.swapaxes(1, 2) if by_key else some)
        expected = expected[:, [0, 2, 1]] if by_key else expected
        np.testing.assert_array_equal(triples, expected)
        np.testing.assert_array_equal(found.masked[:count], ~every[tuple(expected.T)])
        stays = expected[:, [0, 2]] if by_key else expected[:, [0, 1]]
        new = np.r_[True, (np.diff(stays, axis=0) != 0).any(1)]
        np.testing.assert_array_equal(found.opens[:count], new)
        np.testing.assert_array_equal(found.closes[:count], np.r_[new[1:], True])
        nonempty = blocks.any((2, 4))[tuple(expected.T)]
        np.testing.assert_array_equal(found.empty[:count], ~nonempty)


def test_memory_of_a_long_sequence_is_bounded():
    """The gradient at 16,384 tokens needs much less temporary memory than a score matrix."""
    length = 16384
    one = jax.ShapeDtypeStruct((1, length, 1, 16), jnp.float32)
    segments = jax.ShapeDtypeStruct((1, length), jnp.int32)
    gradient = jax.grad(
        lambda q, k, v, segments: dense_attention.causal_attention(q, k, v, segments, 0.1).sum(),
        (0, 1, 2),
    )
    compiled = jax.jit(gradient).lower(one, one, one, segments).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < length * length * 4 / 16


def test_block_size_grows_with_the_sequence():
    lengths = (1, 64, 65, 300, 2048, 2049, 4096, 6000, 262144)
    assert [xla.block_for(n) for n in lengths] == [64, 64, 128, 128, 128, 128, 256, 512, 512]
