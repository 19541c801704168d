"""Attention within slices: values and gradients by the equation in float64, slice by slice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivx.kernels.vision_attention import reference, vision_attention, visits, xla
from ivx.parallel.mesh import make_mesh
from tests.test_cross_entropy import variables

N, H = 3, 8
list_visits = jax.jit(visits.visits, static_argnums=(1, 2))


@pytest.fixture
def small_tiles(monkeypatch):
    """Every block is cut into tiles of 16 rows."""
    monkeypatch.setattr(xla, "DENSE", 0)
    monkeypatch.setattr(xla, "TILE", 16)


def lay(sizes: list[int], block: int, rows: int) -> np.ndarray:
    """Slices of these sizes one after another, none across a block, in `rows` rows."""
    slices, cursor = np.zeros(rows, np.int32), 0
    for number, size in enumerate(sizes, 1):
        if cursor % block + size > block:
            cursor += block - cursor % block
        slices[cursor : cursor + size] = number
        cursor += size
    return slices


# One row and one slice; slices that fill blocks and that do not; hundreds; padding before slices,
# between and after them; nothing at all.
PACKS = {
    "one row": (np.array([[1]]), 1),
    "one slice": (lay([64], 64, 64)[None], 64),
    "padding": (np.stack([lay([16, 16, 24], 32, 64), lay([32, 28], 32, 64)]), 32),
    "over tiles": (np.stack([lay([50, 30, 20, 90, 5], 100, 300), lay([7] * 20, 100, 300)]), 100),
    "hundreds": (lay([1, 2, 3, 4] * 100, 500, 1500)[None], 500),
    "empty": (np.zeros((1, 32), np.int32), 32),
    "late": (np.roll(lay([10, 9], 64, 64), 40)[None], 64),
}


def draw(slices: np.ndarray, heads: int = N, width: int = H) -> np.ndarray:
    """Queries, keys, values and cotangents; scores are about 3."""
    rng = np.random.default_rng(slices.size)
    arrays = rng.normal(size=(4, *slices.shape, heads, width))
    arrays[0] *= 3
    return arrays


def by_hand(slices: np.ndarray, arrays: np.ndarray) -> list[np.ndarray]:
    """Output and the gradients of q, k and v, in float64."""
    q, k, v, d_out = arrays
    found = [np.zeros_like(q) for _ in range(4)]
    scale = q.shape[-1] ** -0.5
    for b, n in np.ndindex(slices.shape[0], q.shape[2]):
        for number in set(slices[b].tolist()) - {0}:
            at = b, slices[b] == number, n
            scores = q[at] @ k[at].T * scale
            p = np.exp(scores - scores.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            d_p = d_out[at] @ v[at].T
            d_scores = p * (d_p - (p * d_p).sum(-1, keepdims=True)) * scale
            parts = p @ v[at], d_scores @ k[at], d_scores.T @ q[at], p.T @ d_out[at]
            for whole, part in zip(found, parts, strict=True):
                whole[at] = part
    return found


def run(slices: np.ndarray, arrays: np.ndarray, block: int, dtype=jnp.float32) -> list[jax.Array]:
    """The same from the op."""
    slices = jnp.asarray(slices)
    *inputs, d_out = (jnp.asarray(a, dtype) for a in arrays)

    def outputs(q, k, v, slices, d_out):
        out, back = jax.vjp(lambda *a: vision_attention(*a, slices, block), q, k, v)
        return out, *back(d_out)

    found = jax.jit(outputs)(*inputs, slices, d_out)
    assert all(a.dtype == dtype for a in found)
    return found


def relative(found, right) -> float:
    """Largest error, relative to the largest value; what is 0 has to be 0."""
    right_most = np.abs(right).max() or 1.0
    return float(np.abs(np.asarray(found, np.float64) - right).max() / right_most)


def check(slices: np.ndarray, block: int, dtype=jnp.float32, bound: float = 1e-5, **sizes) -> None:
    """Output and gradients are right, and 0 on padding, where all inputs are NaN."""
    arrays = draw(slices, **sizes)
    arrays = np.asarray(jnp.asarray(arrays, dtype), np.float64)
    right = by_hand(slices, arrays)
    arrays[:, slices == 0] = np.nan
    for name, one, other in zip(
        ("out", "q", "k", "v"), run(slices, arrays, block, dtype), right, strict=True
    ):
        assert relative(one, other) < bound, name


@pytest.mark.parametrize("name", PACKS)
def test_blocks_attended_to_whole(name):
    check(*PACKS[name])


@pytest.mark.parametrize("name", PACKS)
def test_blocks_cut_into_tiles(small_tiles, name):
    check(*PACKS[name])


def test_blocks_a_few_at_a_time(monkeypatch):
    """As many as scores may be alive: here two, of three blocks."""
    monkeypatch.setattr(xla, "SCORES", 2 * N * 100 * 100)
    check(*PACKS["over tiles"])


def test_bf16(small_tiles):
    check(*PACKS["over tiles"], jnp.bfloat16, 1e-2)


def test_the_reference_equals_the_equation():
    slices, _ = PACKS["padding"]
    *arrays, _ = draw(slices)
    right, *_ = by_hand(slices, draw(slices))
    with jax.enable_x64(True):
        assert relative(reference.vision_attention(*arrays, slices), right) < 1e-12


@pytest.mark.parametrize("name", PACKS)
def test_visits_are_the_pairs_of_tiles_that_share_a_slice(name):
    """And of a tile without slices, itself."""
    slices, block = PACKS[name]
    numbers = np.asarray(visits.number(jnp.asarray(slices)))
    numbers = np.pad(numbers, (0, -len(numbers) % 16))
    found = list_visits(jnp.asarray(numbers), 16, block)
    tiles = numbers.reshape(-1, 16)
    shared = {
        (i, j)
        for i, j in np.ndindex(len(tiles), len(tiles))
        if set(tiles[i]) & set(tiles[j]) - {0} or (i == j)
    }
    count = int(found.count)
    own, other = (np.asarray(tile(found.pairs)) for tile in (visits.own, visits.other))
    pairs = list(zip(own[:count].tolist(), other[:count].tolist(), strict=True))
    assert shared == set(pairs) and len(pairs) == len(shared) and pairs == sorted(pairs)
    assert set(own[count:].tolist()) == {-1}


def test_the_work_follows_the_slices_not_the_square_of_the_block():
    """A block of 4,096 rows with slices of 256: three visits a tile at most, of sixteen."""
    slices = jnp.asarray(lay([200] * 20, 4096, 4096))
    assert int(list_visits(slices, 256, 4096).count) <= 3 * 16


def test_scores_of_a_large_block_are_never_whole():
    """A slice of 16,384 patches, as a large image has."""
    shape = jax.ShapeDtypeStruct
    patches = shape((1, 16_384, 16, 72), jnp.bfloat16)
    loss = lambda *a: vision_attention(*a, block=16_384).astype(jnp.float32).sum()  # noqa: E731
    jaxpr = jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(
        patches, patches, patches, shape((1, 16_384), jnp.int32)
    )
    assert max(v.aval.size for v in variables(jaxpr.jaxpr)) <= 16_384 * 16 * 72


@pytest.mark.parametrize("sizes", [(2, 2, 2, 1), (1, 8, 1, 1), (1, 1, 8, 1)])
def test_packs_and_heads_over_devices(small_tiles, sizes):
    """What does not divide stays whole: 4 packs over 8 devices, 6 heads over 8."""
    names = ("replica", "fsdp", "tensor", "context")
    slices = np.concatenate([PACKS["over tiles"][0]] * 2)
    with jax.set_mesh(make_mesh(dict(zip(names, sizes, strict=True)))):
        check(slices, 100, heads=6)


def test_rows_that_are_no_whole_blocks_are_refused():
    patches = jnp.zeros((1, 40, N, H))
    with pytest.raises(ValueError, match="40 rows of patches are not whole blocks of 16"):
        vision_attention(patches, patches, patches, jnp.zeros((1, 40), jnp.int32), 16)
