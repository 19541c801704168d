"""On-policy distillation: a student comes to its teacher."""

import jax
import optax
import pytest

from ivx.models.definition import ModelDefinition
from ivx.stages.distillation import DistillationStage
from ivx.training.state import init_state, make_step
from tests.conftest import pack, small_spec


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
    loss = jax.jit(lambda p, frozen, b: stage.loss(definition.bind(p), b, frozen).total)
    assert float(loss(params, params, pack(layouts[:2], shape))) == pytest.approx(0, abs=1e-4)
