"""On-policy distillation: the divergence in float64, and a student that comes to its teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ivx.kernels.reverse_kl import reverse_kl
from ivx.models.definition import ModelDefinition
from ivx.stages.distillation import DistillationStage
from ivx.training.state import init_state, make_step
from tests.conftest import pack, small_spec


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def by_hand(student, teacher) -> tuple[np.ndarray, np.ndarray]:
    """KL(p || q) of each row of logits and its gradient by the student's logits, float64."""
    log_p = student - np.log(np.exp(student).sum(-1, keepdims=True))
    log_q = teacher - np.log(np.exp(teacher).sum(-1, keepdims=True))
    p = np.exp(log_p)
    kl = (p * (log_p - log_q)).sum(-1)
    return kl, p * (log_p - log_q - kl[:, None])


@pytest.mark.parametrize("chunk", [4, 5, 64])
def test_divergence_and_gradient_equal_the_formula(chunk):
    """Heads of the two models may differ in width; chunks change nothing."""
    hidden, head, hidden_t, head_t = draw(0, 13, 6), draw(1, 6, 21), draw(2, 13, 9), draw(3, 9, 21)
    kl, slope = by_hand(hidden @ head, hidden_t @ head_t)
    arrays = [jnp.asarray(a, jnp.float32) for a in (hidden, head, hidden_t, head_t)]
    found = reverse_kl(*arrays, chunk=chunk)
    np.testing.assert_allclose(found, kl, rtol=2e-5)
    gradients = jax.grad(lambda *a: reverse_kl(*a, chunk=chunk).sum(), (0, 1, 2, 3))(*arrays)
    np.testing.assert_allclose(gradients[0], slope @ head.T, rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(gradients[1], hidden.T @ slope, rtol=2e-4, atol=1e-5)
    assert not np.any(gradients[2]) and not np.any(gradients[3])


def test_a_student_comes_to_its_teacher(layouts, shape):
    """The teacher has another attention; its parameters are frozen and are not touched."""
    student, teacher = ModelDefinition(small_spec()), ModelDefinition(small_spec("gqa"))
    frozen = teacher.init(5)
    stage = DistillationStage(None, teacher, lambda mesh: frozen, shape, 1, [])
    optimizer = optax.adam(3e-3)
    step = jax.jit(make_step(student, stage, optimizer, 1))
    state, batch = init_state(student.init(0), optimizer), pack(layouts[:2], shape)
    losses = []
    for _ in range(8):
        state, metrics = step(state, stage.frozen(None), batch)
        losses.append(float(metrics["loss/total"]))
    assert losses[0] > 0 and losses[-1] < 0.7 * losses[0]


def test_a_model_is_no_distance_from_itself(layouts, shape):
    definition = ModelDefinition(small_spec())
    params = definition.init(0)
    stage = DistillationStage(None, definition, lambda mesh: params, shape, 1, [])
    loss = stage.loss(definition.bind(params), pack(layouts[:2], shape), params)
    assert float(loss.total) == pytest.approx(0, abs=1e-4)
