"""Absorbed decoding over a latent cache, against reference attention in float64."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from ivx.kernels import choice
from ivx.kernels.latent_attention import reference as materialized
from ivx.kernels.latent_decode import latent_decode, reference, tpu, xla
from ivx.kernels.latent_decode.attention_output import AttentionOutput
from ivx.kernels.latent_decode.cache import LatentCache, PagedCache
from ivx.kernels.latent_decode.quantise import quantise
from ivx.models.cache import write
from ivx.parallel.mesh import make_mesh
from tests.attention import QUICKLY

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


def relative(actual, exact) -> float:
    """Maximum error relative to the largest value."""
    actual = np.asarray(actual).astype(np.float64)
    return float(np.abs(actual - exact).max() / (np.abs(exact).max() or 1.0))


def test_absorbed_attention_equals_materialized_attention():
    """Decoding the last tokens gives the last rows of attention over the full sequence."""
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
        inputs = {name: jnp.asarray(array, jnp.float64) for name, array in arrays.items()}
        ones = jnp.ones((rows, length), jnp.int32)
        exact = np.asarray(materialized.latent_attention(**inputs, segments_bt=ones))[:, -count:]
    single = {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}
    entries = jnp.concatenate([single["latent_btr"], single["k_rope_btp"]], -1)
    found = latent_decode(
        single["q_nope_btnh"][:, -count:],
        single["q_rope_btnp"][:, -count:],
        LatentCache(jnp.pad(entries, ((0, 0), (0, 9), (0, 0)))),
        single["w_up_rnk"],
        jnp.full(rows, length - count),
    )
    assert relative(found, exact) < 1e-5


@pytest.mark.parametrize(
    ("capacity", "count"), [(1, 1), (7, 1), (7, 5), (128, 1), (128, 5), (200, 1), (200, 5)]
)
@pytest.mark.parametrize("block", [None, 48])
def test_xla_matches_float64(capacity, count, block):
    """Caches of one block, of several, and not divisible by blocks; full and short rows."""
    q, entries = draw(3, count, capacity)
    lengths = np.array([capacity - count, (capacity - count) // 3, 0])
    exact, _ = expected(q, entries, lengths)
    for dtype, bound in ((jnp.float32, 1e-5), (jnp.bfloat16, 1e-2)):
        cache = LatentCache(jnp.asarray(entries, dtype))
        found = xla.attend(
            jnp.asarray(q, dtype), cache, jnp.asarray(lengths), R, SCALE, block
        ).context
        assert relative(found, exact) < bound, dtype


@pytest.mark.parametrize("block", [None, 16])
def test_entries_beyond_the_length_have_no_effect(block):
    """Unwritten entries may be NaN; a row without visible entries yields zeros."""
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
def test_cache_is_written_in_place(rows, count):
    """The compiled decoding loop contains no copy with the shape of the cache."""
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


# Sizes that the TPU kernel supports: R and R + P are multiples of 128.
WIDE, WIDE_RANK, WIDE_SCALE = 256, 128, 0.1


def draw_wide(count: int, room: int, lengths, dtype=jnp.float32) -> tuple:
    """Queries of two heads, entries, and entries with NaN beyond the lengths."""
    rng = np.random.default_rng(1)
    q = jnp.asarray(rng.normal(size=(len(lengths), count, 2, WIDE)), dtype)
    entries = jnp.asarray(rng.normal(size=(len(lengths), room, WIDE)), dtype)
    written = jnp.arange(room) < jnp.asarray(lengths)[:, None] + count
    return q, entries, jnp.where(written[..., None], entries, jnp.nan)


def wide_reference(q, entries, lengths) -> tuple[np.ndarray, np.ndarray]:
    with jax.enable_x64(True):
        exact = [jnp.asarray(np.asarray(array), jnp.float64) for array in (q, entries)]
        lengths = jnp.asarray(lengths)
        found = reference.attend(*exact, lengths, WIDE_RANK, WIDE_SCALE)
        return tuple(map(np.asarray, found))


def kernel(q, cache, lengths, **options) -> AttentionOutput:
    """The TPU kernel, interpreted, in blocks of two pages."""
    options = {"block": 256, "splits": 1, "interpret": True} | options
    assert tpu.constraint(cache, WIDE_RANK) == ""
    lengths = jnp.asarray(lengths)
    return jax.jit(
        lambda q, cache: tpu.attend(q, cache, lengths, WIDE_RANK, WIDE_SCALE, **options),
        compiler_options=QUICKLY,
    )(q, cache)


def in_pages(cache: LatentCache, page: int) -> PagedCache:
    """The same entries in pages of random order; unused table entries are out of range."""
    rows, room, width = cache.entries.shape
    order = np.random.default_rng(2).permutation(rows * room // page)
    place = np.argsort(order).astype(np.int32).reshape(rows, -1)
    scales = None if cache.scales is None else cache.scales.reshape(-1, 1, page)[order]
    more = np.full((rows, 1), 10**6, np.int32)
    return PagedCache(
        cache.entries.reshape(-1, page, width)[order], np.concatenate([place, more], 1), scales
    )


# No entry, one entry, within a page, at a page and a block boundary, and the full cache.
LENGTHS = {1: [-1, 0, 100, 127, 255, 639], 3: [-3, -2, 100, 126, 254, 637]}


@pytest.mark.parametrize(
    "dtype, bound, count, splits", [(jnp.float32, 1e-5, 3, 2), (jnp.bfloat16, 1e-2, 1, 1)]
)
def test_kernel_matches_float64(dtype, bound, count, splits):
    q, entries, poisoned = draw_wide(count, 640, LENGTHS[count], dtype)
    context, lse = wide_reference(q, entries, LENGTHS[count])
    found = kernel(q, LatentCache(poisoned), LENGTHS[count], splits=splits)
    assert relative(found.context, context) < bound
    assert relative(found.lse[1:], lse[1:]) < bound
    assert np.abs(np.asarray(found.context[0], np.float32)).max() == 0
    assert (np.asarray(found.lse[0]) < -1e29).all()


def test_kernel_splits_many_tokens_into_programs(monkeypatch):
    """Five tokens, two per program; the last program is half empty."""
    monkeypatch.setattr(tpu, "ROWS", 4)
    lengths = [-2, 0, 300]
    q, entries, poisoned = draw_wide(5, 384, lengths)
    context, _ = wide_reference(q, entries, lengths)
    assert relative(kernel(q, LatentCache(poisoned), lengths).context, context) < 1e-5


def xla_wide(q, cache, lengths) -> AttentionOutput:
    return xla.attend(q, cache, jnp.asarray(lengths), WIDE_RANK, WIDE_SCALE, 256)


def split_terms(q, cache, lengths) -> AttentionOutput:
    """The kernel on a chip that multiplies entries as stored."""
    return kernel(q, cache, lengths, multiplied=cache.entries.dtype)


@pytest.mark.parametrize("attend", [kernel, xla_wide])
def test_paged_cache_equals_contiguous_cache(attend):
    lengths = LENGTHS[3]
    q, entries, _ = draw_wide(3, 768, lengths)
    cache = quantise(entries, jnp.int8)
    rows, pages = (attend(q, c, lengths) for c in (cache, in_pages(cache, 128)))
    np.testing.assert_array_equal(rows.context, pages.context)
    np.testing.assert_array_equal(rows.lse, pages.lse)


@pytest.mark.parametrize(
    "attend, dtype, queries, bound",
    [
        (split_terms, jnp.int8, jnp.bfloat16, 1e-2),
        (split_terms, jnp.float8_e4m3fn, jnp.bfloat16, 1e-2),
        (kernel, jnp.int8, jnp.float32, 1e-5),
        (xla_wide, jnp.int8, jnp.bfloat16, 1e-2),
        (xla_wide, jnp.float8_e4m3fn, jnp.float32, 1e-5),
    ],
)
def test_one_byte_entries_are_used_as_stored(attend, dtype, queries, bound):
    """Against the stored numbers times their scales; only quantization loses precision."""
    lengths = LENGTHS[1]
    q, entries, _ = draw_wide(1, 640, lengths)
    q, cache = q.astype(queries), quantise(entries, dtype)
    stored = (
        np.asarray(cache.entries, np.float64) * np.asarray(cache.scales, np.float64)[:, 0, :, None]
    )
    context, _ = wide_reference(q, stored, lengths)
    beyond = jnp.arange(640) > jnp.asarray(lengths)[:, None]
    poisoned = jnp.where(beyond[:, None], jnp.nan, cache.scales)
    found = attend(q, LatentCache(cache.entries, poisoned), lengths)
    assert relative(found.context, context) < bound


def test_kernel_matches_float64_in_the_tpu_interpreter():
    """It simulates memories, semaphores and copies, and detects races."""
    lengths = [0, 300]
    q, entries, poisoned = draw_wide(1, 384, lengths)
    context, _ = wide_reference(q, entries, lengths)
    found = kernel(q, LatentCache(poisoned), lengths, interpret=pltpu.InterpretParams())
    assert relative(found.context, context) < 1e-5


@pytest.mark.parametrize("dtype, bound", [(jnp.int8, 1 / 254), (jnp.float8_e4m3fn, 1 / 16)])
def test_quantization_error_is_bounded(dtype, bound):
    """int8: half a step relative to the largest number; e4m3: three mantissa bits per number."""
    entries = np.random.default_rng(0).normal(size=(2, 30, 64)).astype(np.float32)
    entries[0, 3] = 0
    cache = quantise(jnp.asarray(entries), dtype)
    assert cache.entries.dtype == dtype and cache.scales.shape == (2, 1, 30)
    back = np.asarray(cache.entries, np.float32) * np.asarray(cache.scales)[:, 0, :, None]
    largest = np.abs(entries).max(-1, keepdims=True)
    # e4m3 is evenly spaced below 2^-6 (subnormals).
    size = largest if dtype == jnp.int8 else np.maximum(np.abs(entries), largest * 2**-6 / 448)
    assert (np.abs(back - entries) <= size * bound * 1.001).all()


@pytest.mark.slow
@pytest.mark.parametrize("dtype, bound", [(jnp.float32, 1e-5), (jnp.bfloat16, 1e-2)])
def test_decoding_matches_float64_up_to_8192_entries(dtype, bound):
    """With the real block size of a TPU, in both implementations."""
    lengths = [0, 1, 2047, 2048, 4000, 8191]
    q, entries, poisoned = draw_wide(1, 8192, lengths, dtype)
    context, lse = wide_reference(q, entries, lengths)
    for attend in (functools.partial(kernel, block=tpu.BLOCK), xla_wide):
        found = attend(q, LatentCache(poisoned), lengths)
        assert relative(found.context, context) < bound
        assert relative(found.lse, lse) < bound


@pytest.mark.parametrize("axis, lengths", [("context", [5, 63, -1, 17]), ("fsdp", [0, 63, 5, 9])])
def test_decoding_on_mesh_equals_single_device(axis, lengths):
    """Along `context`, two devices hold 32 entries of each sequence, possibly none visible."""
    rng = np.random.default_rng(3)
    q_nope, q_rope, entries, w_up = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((4, 1, 4, H), (4, 1, 4, P), (4, 64, E), (R, 4, 2 * H))
    )
    arrays = q_nope, q_rope, quantise(entries, jnp.int8), w_up, jnp.asarray(lengths)
    whole = latent_decode(*arrays)
    sizes = {"replica": 1, "fsdp": 1, "tensor": 4, "context": 1} | {axis: 2}
    with jax.set_mesh(make_mesh(sizes)), choice.force("tpu"):
        found = jax.jit(latent_decode)(*arrays)
    assert relative(found, np.asarray(whole, np.float64)) < 1e-5
