"""Each op against its equation in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivx.kernels.cross_entropy import cross_entropy
from ivx.kernels.latent_attention import reference
from ivx.kernels.latent_decode import latent_decode
from ivx.kernels.vision_attention import vision_attention

B, N, H, P, R = 2, 3, 8, 4, 10


def inputs(length: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape)  # noqa: E731
    return {
        "q_nope_btnh": normal(B, length, N, H),
        "q_rope_btnp": normal(B, length, N, P),
        "latent_btr": normal(B, length, R),
        "k_rope_btp": normal(B, length, P),
        "w_up_rnk": normal(R, N, 2 * H),
    }


def relative(found, expected) -> float:
    """Largest error, relative to the largest value; a gradient that is 0 has to be 0."""
    return float(np.abs(np.asarray(found) - expected).max() / (np.abs(expected).max() or 1.0))


def test_absorbed_decode_equals_materialised():
    """The last token through the absorbed form is the last row of the whole sequence."""
    length = 40
    arrays = inputs(length)
    ones = np.ones((B, length), np.int32)
    with jax.enable_x64(True):
        exact = {name: jnp.asarray(array, jnp.float64) for name, array in arrays.items()}
        expected = np.asarray(reference.latent_attention(**exact, segments_bt=ones))[:, -1]
    single = {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}
    # What lies in the cache beyond the length must not matter.
    room = lambda a: jnp.pad(a, ((0, 0), (0, 9), (0, 0)), constant_values=1e3)  # noqa: E731
    found = latent_decode(
        single["q_nope_btnh"][:, -1],
        single["q_rope_btnp"][:, -1],
        room(single["latent_btr"]),
        room(single["k_rope_btp"]),
        single["w_up_rnk"],
        jnp.full(B, length),
    )
    assert relative(found, expected) < 1e-5


def test_vision_attention_equals_attention_slice_by_slice():
    rng = np.random.default_rng(0)
    slices = np.array([[1] * 16 + [2] * 16 + [3] * 24 + [0] * 8, [1] * 32 + [2] * 28 + [0] * 4])
    q, k, v = rng.normal(size=(3, 2, 64, N, H))
    expected = np.zeros_like(q)
    for b, s in np.ndindex(2, 4):
        rows = np.flatnonzero(slices[b] == s)
        if not len(rows):
            continue
        for n in range(N):
            scores = q[b, rows, n] @ k[b, rows, n].T / np.sqrt(H)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            expected[b, rows, n] = weights / weights.sum(-1, keepdims=True) @ v[b, rows, n]
    found = vision_attention(*(jnp.asarray(a, jnp.float32) for a in (q, k, v)), slices, block=32)
    real = slices > 0
    assert relative(np.asarray(found)[real], expected[real]) < 1e-5


@pytest.mark.parametrize("tokens", [5, 16, 37])
def test_cross_entropy_equals_its_equation(tokens):
    rng = np.random.default_rng(0)
    hidden, head = rng.normal(size=(tokens, 12)), rng.normal(size=(12, 50))
    targets = rng.integers(0, 50, tokens)
    logits = hidden @ head
    expected = np.log(np.exp(logits).sum(-1)) - logits[np.arange(tokens), targets]
    single = jnp.asarray(hidden, jnp.float32), jnp.asarray(head, jnp.float32)
    assert relative(cross_entropy(*single, jnp.asarray(targets), chunk=16), expected) < 1e-5
