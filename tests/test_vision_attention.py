"""Vision attention and its gradients against float64, slice by slice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivx.kernels.vision_attention import reference, vision_attention, visits, xla
from ivx.parallel.mesh import make_mesh
from tests.test_cross_entropy import variables

N, H = 3, 8
list_visits = jax.jit(visits.list_visits, static_argnums=(1, 2))


@pytest.fixture
def small_tiles(monkeypatch):
    """Splits every block into tiles of 16 rows."""
    monkeypatch.setattr(xla, "DENSE", 0)
    monkeypatch.setattr(xla, "TILE", 16)


def lay(sizes: list[int], block: int, rows: int) -> np.ndarray:
    """Consecutive slices of these sizes in `rows` rows; no slice crosses a block."""
    slices, cursor = np.zeros(rows, np.int32), 0
    for number, size in enumerate(sizes, 1):
        if cursor % block + size > block:
            cursor += block - cursor % block
        slices[cursor : cursor + size] = number
        cursor += size
    return slices


# One row and one slice; slices that do or do not fill blocks; hundreds of slices; padding before,
# between and after slices; padding only.
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
    """Queries, keys, values and cotangents, with scores of about 3."""
    rng = np.random.default_rng(slices.size)
    arrays = rng.normal(size=(4, *slices.shape, heads, width))
    arrays[0] *= 3
    return arrays


def exact(slices: np.ndarray, arrays: np.ndarray) -> list[np.ndarray]:
    """Output and gradients of q, k and v, in float64."""
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
    """Output and gradients of the op."""
    slices = jnp.asarray(slices)
    *inputs, d_out = (jnp.asarray(a, dtype) for a in arrays)

    def outputs(q, k, v, slices, d_out):
        out, back = jax.vjp(lambda *a: vision_attention(*a, slices, block), q, k, v)
        return out, *back(d_out)

    found = jax.jit(outputs)(*inputs, slices, d_out)
    assert all(a.dtype == dtype for a in found)
    return found


def relative(actual, expected) -> float:
    """Maximum error relative to the largest value; absolute if all expected values are 0."""
    largest = np.abs(expected).max() or 1.0
    return float(np.abs(np.asarray(actual, np.float64) - expected).max() / largest)


def check(slices: np.ndarray, block: int, dtype=jnp.float32, bound: float = 1e-5, **sizes) -> None:
    """Checks output and gradients, which are 0 on padding, where all inputs are NaN."""
    arrays = draw(slices, **sizes)
    arrays = np.asarray(jnp.asarray(arrays, dtype), np.float64)
    right = exact(slices, arrays)
    arrays[:, slices == 0] = np.nan
    for name, actual, expected in zip(
        ("out", "q", "k", "v"), run(slices, arrays, block, dtype), right, strict=True
    ):
        assert relative(actual, expected) < bound, name


@pytest.mark.parametrize("name", PACKS)
def test_dense_blocks_match_float64(name):
    check(*PACKS[name])


@pytest.mark.parametrize("name", PACKS)
def test_tiled_blocks_match_float64(small_tiles, name):
    check(*PACKS[name])


def test_blocks_within_the_score_limit_match_float64(monkeypatch):
    """The limit allows two of three blocks at a time."""
    monkeypatch.setattr(xla, "SCORES", 2 * N * 100 * 100)
    check(*PACKS["over tiles"])


def test_bfloat16_matches_float64(small_tiles):
    check(*PACKS["over tiles"], jnp.bfloat16, 1e-2)


def test_reference_matches_float64():
    slices, _ = PACKS["padding"]
    *arrays, _ = draw(slices)
    right, *_ = exact(slices, draw(slices))
    with jax.enable_x64(True):
        assert (
            relative(
                reference.vision_attention(*map(jnp.asarray, arrays), jnp.asarray(slices)), right
            )
            < 1e-12
        )


@pytest.mark.parametrize("name", PACKS)
def test_visits_are_the_pairs_of_tiles_that_share_a_slice(name):
    """A tile without slices visits itself."""
    slices, block = PACKS[name]
    numbers = np.asarray(visits.global_ids(jnp.asarray(slices)))
    numbers = np.pad(numbers, (0, -len(numbers) % 16))
    found = list_visits(jnp.asarray(numbers), 16, block)
    tiles = numbers.reshape(-1, 16)
    shared = {
        (i, j)
        for i, j in np.ndindex(len(tiles), len(tiles))
        if set(tiles[i]) & set(tiles[j]) - {0} or (i == j)
    }
    count = int(found.count)
    own, other = (
        np.asarray(tile(found.pairs)) for tile in (visits.visiting_tile, visits.visited_tile)
    )
    pairs = list(zip(own[:count].tolist(), other[:count].tolist(), strict=True))
    assert shared == set(pairs) and len(pairs) == len(shared) and pairs == sorted(pairs)
    assert set(own[count:].tolist()) == {-1}


def test_number_of_visits_is_linear_in_the_block_size():
    """In a block of 4,096 rows with slices of 200, each of 16 tiles visits at most three."""
    slices = jnp.asarray(lay([200] * 20, 4096, 4096))
    assert int(list_visits(slices, 256, 4096).count) <= 3 * 16


def test_scores_of_a_large_block_are_never_materialized():
    """For a slice of 16,384 patches, as in a large image."""
    shape = jax.ShapeDtypeStruct
    patches = shape((1, 16_384, 16, 72), jnp.bfloat16)
    loss = lambda *a: vision_attention(*a, block=16_384).astype(jnp.float32).sum()  # noqa: E731
    jaxpr = jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(
        patches, patches, patches, shape((1, 16_384), jnp.int32)
    )
    assert max(v.aval.size for v in variables(jaxpr.jaxpr)) <= 16_384 * 16 * 72


@pytest.mark.parametrize("sizes", [(2, 2, 2, 1), (1, 8, 1, 1), (1, 1, 8, 1)])
def test_sharded_attention_matches_float64(small_tiles, sizes):
    """Axes that do not divide are replicated: 4 packs over 8 devices, 6 heads over 8."""
    names = ("replica", "fsdp", "tensor", "context")
    slices = np.concatenate([PACKS["over tiles"][0]] * 2)
    with jax.set_mesh(make_mesh(dict(zip(names, sizes, strict=True)))):
        check(slices, 100, heads=6)


def test_rows_that_blocks_do_not_divide_are_refused():
    patches = jnp.zeros((1, 40, N, H))
    with pytest.raises(
        ValueError, match="40 rows of patches are not a multiple of the block size 16"
    ):
        vision_attention(patches, patches, patches, jnp.zeros((1, 40), jnp.int32), 16)
