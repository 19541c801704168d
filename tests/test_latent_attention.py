"""Latent attention against float64, and its memory by groups of heads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivx.kernels.latent_attention import GROUP, heads_at_a_time, latent_attention, reference
from tests.attention import TOLERANCE, errors, normal, packs

B, N, H, P, R = 2, 6, 8, 4, 10


def inputs(length: int, heads: int = N) -> dict[str, np.ndarray]:
    return normal(
        length,
        q_nope_btnh=(B, length, heads, H),
        q_rope_btnp=(B, length, heads, P),
        latent_btr=(B, length, R),
        k_rope_btp=(B, length, P),
        w_up_rnk=(R, heads, 2 * H),
    )


def unit_norm(keys: jax.Array) -> jax.Array:
    """RMS norm over the last axis, as QK-norm without a scale."""
    return keys * jax.lax.rsqrt((keys**2).mean(-1, keepdims=True) + 1e-6)


@pytest.mark.parametrize(
    ("length", "key_norm", "dtype"),
    [
        (1, None, "float32"),
        (64, None, "float32"),
        (300, unit_norm, "float32"),
        (300, unit_norm, "bfloat16"),
    ],
)
def test_values_and_gradients_match_float64(length, key_norm, dtype):
    """Two packs, one of three samples and padding, one of one sample; groups of 2 of 6 heads."""
    segments = packs((length // 3, length // 4, length // 5), (length,), length=length)
    given = {"segments_bt": segments, "key_norm": key_norm}
    found = errors(
        functools.partial(latent_attention, **given, group=2),
        functools.partial(reference.latent_attention, **given),
        inputs(length),
        dtype,
    )
    assert max(found.values()) < TOLERANCE[dtype], found


def test_group_size_does_not_change_results():
    """In float64, since products of different sizes sum in different orders."""
    segments = packs((40,), (20, 10), length=40)
    with jax.enable_x64(True):
        arrays = {name: jnp.asarray(a, jnp.float64) for name, a in inputs(40).items()}
        first, *others = (
            latent_attention(**arrays, segments_bt=segments, group=group) for group in (6, 1, 2, 3)
        )
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-12, atol=1e-13)


def test_group_size_divides_the_heads():
    heads = (1, 4, 6, 8, 12, 32, 7 * 3)
    assert [heads_at_a_time(n, GROUP) for n in heads] == [1, 4, 6, 8, 6, 8, 7]
    assert [heads_at_a_time(12, most) for most in (0, 1, 5, 100)] == [1, 1, 4, 12]


def test_padding_has_no_effect():
    """NaN in padding changes no value and no gradient."""
    length = 50
    segments = packs((20, 11), (49,), length=length)
    clean = {name: jnp.asarray(a) for name, a in inputs(length).items()}
    poisoned = {}
    for name, array in clean.items():
        padding = np.expand_dims(segments == 0, tuple(range(2, array.ndim)))
        poisoned[name] = array if name == "w_up_rnk" else jnp.where(padding, jnp.nan, array)

    @jax.jit
    @jax.value_and_grad
    def loss(given):
        return (latent_attention(**given, segments_bt=segments, group=3) ** 2).sum()

    for a, b in zip(jax.tree.leaves(loss(clean)), jax.tree.leaves(loss(poisoned)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_keys_of_all_heads_are_never_live():
    """Groups of one of 16 heads save the memory of the other 15 heads' keys and values."""
    length, heads, width = 2048, 16, 64
    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)  # noqa: E731
    arrays = {
        "q_nope_btnh": shape(1, length, heads, width),
        "q_rope_btnp": shape(1, length, heads, width),
        "latent_btr": shape(1, length, R),
        "k_rope_btp": shape(1, length, width),
        "w_up_rnk": shape(R, heads, 2 * width),
    }
    segments = jax.ShapeDtypeStruct((1, length), jnp.int32)

    def temporary(group: int) -> int:
        gradient = jax.jit(
            jax.grad(lambda a, s: latent_attention(**a, segments_bt=s, group=group).sum())
        )
        compiled = gradient.lower(arrays, segments).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    saved = temporary(heads) - temporary(1)
    assert saved > 4 * length * (heads - 1) * 3 * width  # keys with rope, and values


def test_backward_pass_recomputes_keys_but_not_outputs():
    """There are two loops over pairs of blocks: one forward, one backward."""
    arrays = {name: jnp.asarray(a) for name, a in inputs(40).items()}
    segments = jnp.asarray(packs((40,), (40,), length=40))
    gradient = jax.grad(lambda a: latent_attention(**a, segments_bt=segments).sum())
    text = str(jax.make_jaxpr(gradient)(arrays))
    assert text.count("while[") == 2
