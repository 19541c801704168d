"""On-policy distillation: a student approaches its teacher."""

import jax
import optax
import pytest

from ivx.models.definition import ModelDefinition
from ivx.stages.distillation import DistillationStage
from ivx.training.step import init_state, make_step
from tests.conftest import pack, small_spec


def test_student_approaches_teacher(layouts, shape):
    """The teacher has another kind of attention, and its parameters are frozen."""
    student, teacher = ModelDefinition(small_spec()), ModelDefinition(small_spec("gqa"))
    frozen = teacher.init(5)
    stage = DistillationStage(None, teacher, lambda mesh: frozen, shape, 1, [])
    optimizer = optax.adam(3e-3)
    step = jax.jit(make_step(student, stage, optimizer))
    state, batch = init_state(student.init(0), optimizer), pack(layouts[:2], shape)
    losses = []
    for _ in range(8):
        state, metrics = step(state, frozen, batch)
        losses.append(float(metrics["loss/total"]))
    assert losses[0] > 0 and losses[-1] < 0.7 * losses[0]


def test_loss_is_zero_for_identical_models(layouts, shape):
    definition = ModelDefinition(small_spec())
    params = definition.init(0)
    stage = DistillationStage(None, definition, lambda mesh: params, shape, 1, [])
    loss = jax.jit(lambda p, frozen, b: stage.loss(definition.bind(p), b, frozen).total)
    assert float(loss(params, params, pack(layouts[:2], shape))) == pytest.approx(0, abs=1e-4)
