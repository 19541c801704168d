"""Reverse KL: values and gradients by their equations in float64, however they are laid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivx.kernels.reverse_kl import reference, reverse_kl
from ivx.parallel.mesh import make_mesh
from tests.test_cross_entropy import relative

NAMES = ("kl", "hidden", "head")


def draw(tokens: int, vocab: int, scale: float = 2.0) -> list[np.ndarray]:
    """Hidden states and head of a student of width 6 and of a teacher of width 9."""
    rng = np.random.default_rng(tokens + vocab)
    shapes = (tokens, 6), (6, vocab), (tokens, 9), (9, vocab)
    return [rng.normal(size=shape) * (scale if shape[1] == vocab else 1) for shape in shapes]


def by_hand(arrays, slopes_t) -> dict[str, np.ndarray]:
    """KL of each token, and the gradients of sum_t slopes_t KL_t by the student, in float64."""
    hidden, head, other, other_head = arrays

    def logps(logits):
        away = logits - logits.max(-1, keepdims=True)
        return away - np.log(np.exp(away).sum(-1, keepdims=True))

    log_p, log_q = logps(hidden @ head), logps(other @ other_head)
    p = np.exp(log_p)
    kl = (p * (log_p - log_q)).sum(-1)
    slope = p * (log_p - log_q - kl[:, None]) * slopes_t[:, None]
    return dict(zip(NAMES, (kl, slope @ head.T, hidden.T @ slope), strict=True))


def found(arrays, slopes_t, dtype=jnp.float32, **kwargs) -> dict[str, jax.Array]:
    """The same from the op; the teacher's gradients have to be 0."""
    slopes_t = jnp.asarray(slopes_t, jnp.float32)

    def total(*arrays):
        kl_t = reverse_kl(*arrays, **kwargs)
        return (slopes_t * kl_t).sum(), kl_t

    run = jax.jit(jax.value_and_grad(total, (0, 1, 2, 3), has_aux=True))
    (_, kl_t), gradients = run(*(jnp.asarray(a, dtype) for a in arrays))
    assert kl_t.dtype == jnp.float32
    assert not np.any(gradients[2]) and not np.any(gradients[3])
    return dict(zip(NAMES, (kl_t, *gradients[:2]), strict=True))


@pytest.mark.parametrize(("tokens", "vocab"), [(1, 21), (16, 256), (37, 1000)])
def test_divergence_and_gradient_equal_the_formula(small_chunks, tokens, vocab):
    """Heads of the two models may differ in width; chunks change nothing."""
    arrays, slopes = draw(tokens, vocab), np.random.default_rng(0).normal(size=tokens)
    right, ours = by_hand(arrays, slopes), found(arrays, slopes)
    for name in NAMES:
        assert relative(ours[name], right[name]) < 1e-5, name


def test_the_reference_equals_the_formula():
    arrays = draw(5, 21)
    with jax.enable_x64(True):
        assert relative(reference.reverse_kl(*arrays), by_hand(arrays, np.ones(5))["kl"]) < 1e-12


def test_bf16(small_chunks):
    arrays, slopes = draw(37, 1000), np.random.default_rng(0).normal(size=37)
    rounded = [np.asarray(jnp.asarray(a, jnp.bfloat16), np.float64) for a in arrays]
    right, ours = by_hand(rounded, slopes), found(arrays, slopes, jnp.bfloat16)
    assert relative(ours["kl"], right["kl"]) < 1e-5
    assert max(relative(ours[name], right[name]) for name in ("hidden", "head")) < 1e-2


def test_extreme_logits_overflow_nothing(small_chunks):
    arrays, slopes = draw(16, 300, scale=1e4), np.ones(16)
    ours = found(arrays, slopes)
    assert relative(ours["kl"], by_hand(arrays, slopes)["kl"]) < 1e-5
    assert all(np.isfinite(ours[name]).all() for name in NAMES)


def test_a_model_is_no_distance_from_itself(small_chunks):
    hidden, head, *_ = draw(16, 300)
    ours = found((hidden, head, hidden, head), np.ones(16))
    assert max(np.abs(ours[name]).max() for name in NAMES) < 1e-5


def test_tokens_that_do_not_count_leave_no_trace(small_chunks):
    arrays, slopes, counts = draw(40, 300), np.ones(40), np.arange(40) % 3 == 1
    poisoned = [a.copy() for a in arrays]
    poisoned[0][~counts] = poisoned[2][~counts] = np.nan
    right = by_hand((arrays[0][counts], arrays[1], arrays[2][counts], arrays[3]), slopes[counts])
    ours = found(poisoned, slopes, scored_t=jnp.asarray(counts))
    for name in ("kl", "hidden"):
        assert relative(ours[name][counts], right[name]) < 1e-5, name
        assert not np.any(ours[name][~counts]), name
    assert relative(ours["head"], right["head"]) < 1e-5


@pytest.mark.parametrize("sizes", [(2, 2, 2, 1), (1, 2, 2, 2)])
def test_spread_vocabularies_diverge_like_whole_ones(small_chunks, sizes):
    """Over eight devices; the teacher's 9 rows do not divide and stay whole."""
    arrays, counts = draw(40, 304), np.arange(40) % 3 > 0
    right = by_hand(arrays, np.ones(40) * counts)
    laid = [a.reshape(4, 10, -1) if len(a) == 40 else a for a in arrays]
    names = ("replica", "fsdp", "tensor", "context")
    with jax.set_mesh(make_mesh(dict(zip(names, sizes, strict=True)))):
        ours = found(laid, np.ones((4, 10)), scored_t=jnp.asarray(counts.reshape(4, 10)))
    assert relative(ours["kl"].reshape(-1), right["kl"] * counts) < 1e-5
    assert relative(ours["hidden"].reshape(40, 6), right["hidden"]) < 1e-5
    assert relative(ours["head"], right["head"]) < 1e-5


def test_vocabularies_that_differ_are_refused():
    with pytest.raises(ValueError, match="do not belong together"):
        reverse_kl(jnp.zeros((2, 3)), jnp.zeros((3, 5)), jnp.zeros((2, 3)), jnp.zeros((3, 6)))
