"""Losses and vision attention in random shapes drawn by hypothesis."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests import test_cross_entropy, test_reverse_kl, test_vision_attention
from tests.test_cross_entropy import relative

hypothesis = pytest.importorskip("hypothesis", reason="comes with ivx[test]")
st = hypothesis.strategies

# Each example is compiled, so the examples are few and deterministic, for the cache.
few = hypothesis.settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
masks = st.integers(1, 40).flatmap(lambda n: st.lists(st.booleans(), min_size=n, max_size=n))


@few
@hypothesis.given(mask=masks, width=st.integers(1, 20), vocab=st.integers(2, 600))
def test_token_scores_match_float64_in_any_shape(small_chunks, mask, width, vocab):
    mask = np.array(mask)
    inputs = test_cross_entropy.draw(len(mask), width, vocab)
    right = test_cross_entropy.exact_scores(inputs | {"cotangents": inputs["cotangents"] * mask})
    found = test_cross_entropy.op_scores(inputs, scored_t=jnp.asarray(mask))
    if not mask.any():
        assert not any(np.any(a) for a in found.values())
        return
    for name in test_cross_entropy.NAMES:
        expected = right[name] * mask if name in ("logps", "entropy") else right[name]
        assert relative(found[name], expected) < 1e-5, name


# With few columns, one may hold all of p, and the gradient is only rounding.
@few
@hypothesis.given(tokens=st.integers(1, 40), vocab=st.integers(30, 600))
def test_reverse_kl_matches_float64_in_any_shape(small_chunks, tokens, vocab):
    arrays, cotangents = test_reverse_kl.draw(tokens, vocab), np.ones(tokens)
    right = test_reverse_kl.exact_kl(arrays, cotangents)
    found = test_reverse_kl.op_kl(arrays, cotangents)
    for name in test_reverse_kl.NAMES:
        assert relative(found[name], right[name]) < 1e-5, name


@few
@hypothesis.given(
    sizes=st.lists(st.integers(1, 50), max_size=12), block=st.sampled_from([50, 64, 100])
)
def test_vision_attention_matches_float64_in_any_shape(monkeypatch, sizes, block):
    monkeypatch.setattr(test_vision_attention.xla, "DENSE", 0)
    monkeypatch.setattr(test_vision_attention.xla, "TILE", 16)
    rows = (len(sizes) + 1) * block
    test_vision_attention.check(test_vision_attention.lay(sizes, block, rows)[None], block)
