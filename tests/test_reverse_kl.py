"""Reverse KL and its gradients against float64, on one device and sharded."""

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


def exact_kl(arrays, cotangents_t) -> dict[str, np.ndarray]:
    """KL of each token, and student gradients of sum_t cotangents_t KL_t, in float64."""
    hidden, head, other, other_head = arrays

    def logps(logits):
        shifted = logits - logits.max(-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))

    log_p, log_q = logps(hidden @ head), logps(other @ other_head)
    p = np.exp(log_p)
    kl = (p * (log_p - log_q)).sum(-1)
    gradient_tv = p * (log_p - log_q - kl[:, None]) * cotangents_t[:, None]
    return dict(zip(NAMES, (kl, gradient_tv @ head.T, hidden.T @ gradient_tv), strict=True))


def op_kl(arrays, cotangents_t, dtype=jnp.float32, **kwargs) -> dict[str, jax.Array]:
    """KL and gradients of the op; the teacher's gradients must be 0."""
    cotangents_t = jnp.asarray(cotangents_t, jnp.float32)

    def total(*arrays):
        kl_t = reverse_kl(*arrays, **kwargs)
        return (cotangents_t * kl_t).sum(), kl_t

    run = jax.jit(jax.value_and_grad(total, (0, 1, 2, 3), has_aux=True))
    (_, kl_t), gradients = run(*(jnp.asarray(a, dtype) for a in arrays))
    assert kl_t.dtype == jnp.float32
    assert not np.any(gradients[2]) and not np.any(gradients[3])
    return dict(zip(NAMES, (kl_t, *gradients[:2]), strict=True))


@pytest.mark.parametrize(("tokens", "vocab"), [(1, 21), (16, 256), (37, 1000)])
def test_kl_and_gradients_match_float64(small_chunks, tokens, vocab):
    """The two models differ in width."""
    arrays, cotangents = draw(tokens, vocab), np.random.default_rng(0).normal(size=tokens)
    right, ours = exact_kl(arrays, cotangents), op_kl(arrays, cotangents)
    for name in NAMES:
        assert relative(ours[name], right[name]) < 1e-5, name


def test_reference_matches_float64():
    arrays = draw(5, 21)
    with jax.enable_x64(True):
        assert (
            relative(
                reference.reverse_kl(*map(jnp.asarray, arrays)), exact_kl(arrays, np.ones(5))["kl"]
            )
            < 1e-12
        )


def test_bfloat16_kl_is_accumulated_in_float32(small_chunks):
    arrays, cotangents = draw(37, 1000), np.random.default_rng(0).normal(size=37)
    rounded = [np.asarray(jnp.asarray(a, jnp.bfloat16), np.float64) for a in arrays]
    right, ours = exact_kl(rounded, cotangents), op_kl(arrays, cotangents, jnp.bfloat16)
    assert relative(ours["kl"], right["kl"]) < 1e-5
    assert max(relative(ours[name], right[name]) for name in ("hidden", "head")) < 1e-2


def test_extreme_logits_do_not_overflow(small_chunks):
    arrays, cotangents = draw(16, 300, scale=1e4), np.ones(16)
    ours = op_kl(arrays, cotangents)
    assert relative(ours["kl"], exact_kl(arrays, cotangents)["kl"]) < 1e-5
    assert all(np.isfinite(ours[name]).all() for name in NAMES)


def test_kl_of_a_model_from_itself_is_zero(small_chunks):
    hidden, head, *_ = draw(16, 300)
    ours = op_kl((hidden, head, hidden, head), np.ones(16))
    assert max(np.abs(ours[name]).max() for name in NAMES) < 1e-5


def test_unscored_tokens_have_no_effect(small_chunks):
    arrays, cotangents, counts = draw(40, 300), np.ones(40), np.arange(40) % 3 == 1
    poisoned = [a.copy() for a in arrays]
    poisoned[0][~counts] = poisoned[2][~counts] = np.nan
    right = exact_kl(
        (arrays[0][counts], arrays[1], arrays[2][counts], arrays[3]), cotangents[counts]
    )
    ours = op_kl(poisoned, cotangents, scored_t=jnp.asarray(counts))
    for name in ("kl", "hidden"):
        assert relative(ours[name][counts], right[name]) < 1e-5, name
        assert not np.any(ours[name][~counts]), name
    assert relative(ours["head"], right["head"]) < 1e-5


@pytest.mark.parametrize("sizes", [(2, 2, 2, 1), (1, 2, 2, 2)])
def test_sharded_kl_equals_single_device(small_chunks, sizes):
    """Over eight devices; the teacher's 9 rows do not divide and are replicated."""
    arrays, counts = draw(40, 304), np.arange(40) % 3 > 0
    right = exact_kl(arrays, np.ones(40) * counts)
    packed = [a.reshape(4, 10, -1) if len(a) == 40 else a for a in arrays]
    names = ("replica", "fsdp", "tensor", "context")
    with jax.set_mesh(make_mesh(dict(zip(names, sizes, strict=True)))):
        ours = op_kl(packed, np.ones((4, 10)), scored_t=jnp.asarray(counts.reshape(4, 10)))
    assert relative(ours["kl"].reshape(-1), right["kl"] * counts) < 1e-5
    assert relative(ours["hidden"].reshape(40, 6), right["hidden"]) < 1e-5
    assert relative(ours["head"], right["head"]) < 1e-5


def test_different_vocabularies_are_refused():
    with pytest.raises(ValueError, match="do not match"):
        reverse_kl(jnp.zeros((2, 3)), jnp.zeros((3, 5)), jnp.zeros((2, 3)), jnp.zeros((3, 6)))
