"""Absorbed decoding over a latent cache, against attention written out in float64."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivx.kernels.latent_attention import reference as materialised
from ivx.kernels.latent_decode import latent_decode, reference, xla
from ivx.kernels.latent_decode.cache import LatentCache
from ivx.models.cache import write

N, H, P, R = 3, 8, 4, 10
E, SCALE = R + P, (H + P) ** -0.5


def draw(rows: int, count: int, capacity: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Absorbed queries [B, T, N, E] and entries [B, S, E]."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, count, N, E)), rng.normal(size=(rows, capacity, E))


def expected(q_btne, entries_bse, lengths_b) -> tuple[np.ndarray, np.ndarray]:
    """Context and log-sum-exp in float64."""
    with jax.enable_x64(True):
        exact = [jnp.asarray(array, jnp.float64) for array in (q_btne, entries_bse)]
        return tuple(map(np.asarray, reference.attend(*exact, jnp.asarray(lengths_b), R, SCALE)))


def relative(found, wanted) -> float:
    """Largest error, relative to the largest value."""
    found = np.asarray(found).astype(np.float64)
    return float(np.abs(found - wanted).max() / (np.abs(wanted).max() or 1.0))


def test_absorbed_equals_materialised():
    """New tokens through the absorbed form are the last rows of the whole sequence."""
    rows, length, count = 2, 40, 3
    rng = np.random.default_rng(0)
    arrays = {
        "q_nope_btnh": rng.normal(size=(rows, length, N, H)),
        "q_rope_btnp": rng.normal(size=(rows, length, N, P)),
        "latent_btr": rng.normal(size=(rows, length, R)),
        "k_rope_btp": rng.normal(size=(rows, length, P)),
        "w_up_rnk": rng.normal(size=(R, N, 2 * H)),
    }
    with jax.enable_x64(True):
        exact = {name: jnp.asarray(array, jnp.float64) for name, array in arrays.items()}
        ones = jnp.ones((rows, length), jnp.int32)
        wanted = np.asarray(materialised.latent_attention(**exact, segments_bt=ones))[:, -count:]
    single = {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}
    entries = jnp.concatenate([single["latent_btr"], single["k_rope_btp"]], -1)
    found = latent_decode(
        single["q_nope_btnh"][:, -count:],
        single["q_rope_btnp"][:, -count:],
        LatentCache(jnp.pad(entries, ((0, 0), (0, 9), (0, 0)))),
        single["w_up_rnk"],
        jnp.full(rows, length - count),
    )
    assert relative(found, wanted) < 1e-5


@pytest.mark.parametrize("capacity", [1, 7, 128, 200])
@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("block", [None, 48])
def test_blocks_equal_the_equation(capacity, count, block):
    """Caches that one block holds, that blocks divide and that they do not; rows full and short."""
    if count > capacity:
        pytest.skip("the new tokens are in the cache")
    q, entries = draw(3, count, capacity)
    lengths = np.array([capacity - count, (capacity - count) // 3, 0])
    wanted, _ = expected(q, entries, lengths)
    for dtype, bound in ((jnp.float32, 1e-5), (jnp.bfloat16, 1e-2)):
        cache = LatentCache(jnp.asarray(entries, dtype))
        found = xla.attend(
            jnp.asarray(q, dtype), cache, jnp.asarray(lengths), R, SCALE, block
        ).context
        assert relative(found, wanted) < bound, dtype


@pytest.mark.parametrize("block", [None, 16])
def test_nothing_beyond_the_length_leaks(block):
    """Entries that were never written may be anything; a row that sees none gets zeros."""
    q, entries = draw(3, 2, 50)
    lengths = np.array([20, 0, -2])
    poisoned = entries.copy()
    for row, length in enumerate(lengths):
        poisoned[row, length + 2 :] = np.nan
    found = xla.attend(
        jnp.asarray(q, jnp.float32),
        LatentCache(jnp.asarray(poisoned, jnp.float32)),
        jnp.asarray(lengths),
        R,
        SCALE,
        block,
    )
    context, lse = expected(q, entries, lengths)
    assert np.abs(context[2]).max() == 0
    assert relative(found.context, context) < 1e-5
    assert relative(found.lse[:2], lse[:2]) < 1e-5


@pytest.mark.parametrize("rows, count", [(1, 1), (1, 3), (2, 1)])
def test_the_cache_is_written_in_place(rows, count):
    """A loop that decodes never copies the cache: XLA's program has no copy of its shape."""
    q, entries = draw(rows, count, 4096)
    new = jnp.ones((rows, count, E))

    def step(number, carry):
        entries, total = carry
        lengths = jnp.full(rows, number)
        cache = LatentCache(write(entries, new + total.sum(), lengths))
        return cache.entries, xla.attend(jnp.asarray(q), cache, lengths, R, SCALE, 256).context

    start = jnp.asarray(entries, jnp.float32), jnp.zeros((rows, count, N, R))
    loop = jax.jit(lambda start: jax.lax.fori_loop(0, 40, step, start), donate_argnums=0)
    text = loop.lower(start).compile().as_text()
    shape = rf"f32\[{rows},4096,{E}\]"
    assert re.search(shape, text)
    assert not re.search(rf"= {shape}\S* copy\(", text)
