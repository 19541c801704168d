"""Losses and vision attention in shapes that nobody chose: hypothesis draws them."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests import test_cross_entropy, test_reverse_kl, test_vision_attention
from tests.test_cross_entropy import relative

hypothesis = pytest.importorskip("hypothesis", reason="comes with ivx[test]")
st = hypothesis.strategies

# Every example is compiled; the same ones each time, so that the compilation cache knows them.
few = hypothesis.settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
some = st.integers(1, 40).flatmap(lambda n: st.lists(st.booleans(), min_size=n, max_size=n))


@few
@hypothesis.given(counts=some, width=st.integers(1, 20), vocab=st.integers(2, 600))
def test_scores_of_tokens(small_chunks, counts, width, vocab):
    counts = np.array(counts)
    given = test_cross_entropy.draw(len(counts), width, vocab)
    right = test_cross_entropy.by_hand(given | {"slopes": given["slopes"] * counts})
    found = test_cross_entropy.scored(given, scored_t=jnp.asarray(counts))
    if not counts.any():
        assert not any(np.any(a) for a in found.values())
        return
    for name in test_cross_entropy.NAMES:
        expected = right[name] * counts if name in ("logps", "entropy") else right[name]
        assert relative(found[name], expected) < 1e-5, name


# Of a few columns one may have all of p: what is left of the gradient then is rounding.
@few
@hypothesis.given(tokens=st.integers(1, 40), vocab=st.integers(30, 600))
def test_reverse_kl_of_tokens(small_chunks, tokens, vocab):
    arrays, slopes = test_reverse_kl.draw(tokens, vocab), np.ones(tokens)
    right = test_reverse_kl.by_hand(arrays, slopes)
    found = test_reverse_kl.found(arrays, slopes)
    for name in test_reverse_kl.NAMES:
        assert relative(found[name], right[name]) < 1e-5, name


@few
@hypothesis.given(
    sizes=st.lists(st.integers(1, 50), max_size=12), block=st.sampled_from([50, 64, 100])
)
def test_slices_in_blocks(monkeypatch, sizes, block):
    monkeypatch.setattr(test_vision_attention.xla, "DENSE", 0)
    monkeypatch.setattr(test_vision_attention.xla, "TILE", 16)
    rows = (len(sizes) + 1) * block
    test_vision_attention.check(test_vision_attention.lay(sizes, block, rows)[None], block)
