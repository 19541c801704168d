"""Each op against its equation in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivx.kernels.cross_entropy import cross_entropy
from ivx.kernels.latent_attention import latent_attention, reference
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


def segments(length: int) -> np.ndarray:
    return np.stack([np.arange(length) * 3 // length + 1, np.ones(length)]).astype(np.int32)


def relative(found, expected) -> float:
    """Largest error, relative to the largest value; a gradient that is 0 has to be 0."""
    return float(np.abs(np.asarray(found) - expected).max() / (np.abs(expected).max() or 1.0))


@pytest.mark.parametrize("length", [1, 7, 128, 200])
def test_latent_attention_equals_its_equation(length):
    """Values and gradients, for lengths that divide the blocks and that do not."""
    arrays, segs = inputs(length), segments(length)
    with jax.enable_x64(True):
        exact = {name: jnp.asarray(array, jnp.float64) for name, array in arrays.items()}
        loss = lambda op: lambda a: (op(**a, segments_bt=segs) ** 2).sum()  # noqa: E731
        expected = np.asarray(reference.latent_attention(**exact, segments_bt=segs))
        expected_grads = jax.jit(jax.grad(loss(reference.latent_attention)))(exact)
    single = {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}
    assert relative(latent_attention(**single, segments_bt=segs), expected) < 1e-5
    for name, grad in jax.jit(jax.grad(loss(latent_attention)))(single).items():
        assert relative(grad, np.asarray(expected_grads[name])) < 1e-5, name


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
