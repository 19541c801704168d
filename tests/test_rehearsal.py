"""Rehearsal: the sum of two means, and a stage that does not unlearn what is rehearsed."""

import jax
import numpy as np
import optax
import pytest

from data_pipelines.loader import Loaded
from ivx.stages.distillation import DistillationStage
from ivx.stages.language_model import LanguageModelStage
from ivx.stages.rehearsal import RehearsalBatch, RehearsalStage
from ivx.training.state import init_state, make_step
from tests.bigrams import Bigrams
from tests.conftest import pack

COEFFICIENT = 0.5


@pytest.fixture(scope="module")
def student() -> Bigrams:
    return Bigrams()


@pytest.fixture(scope="module")
def teacher_params(student) -> dict:
    return student.init(5)


@pytest.fixture(scope="module")
def own(student, teacher_params, shape) -> DistillationStage:
    return DistillationStage(None, student, lambda mesh: teacher_params, shape, 1, [])


@pytest.fixture(scope="module")
def tuning() -> LanguageModelStage:
    return LanguageModelStage(lambda first: iter(()), [], "token")


@pytest.fixture(scope="module")
def batch(layouts, shape) -> RehearsalBatch:
    return RehearsalBatch(pack(layouts[:2], shape), pack(layouts[2:5], shape))


def test_the_loss_and_its_gradient_are_the_sum_of_two_means(
    student, teacher_params, own, tuning, batch
):
    """The two batches have other numbers of trained tokens."""
    stage = RehearsalStage(own, tuning, COEFFICIENT)

    def mean(stage, batch):
        def of(params, batch):
            loss = stage.loss(student.bind(params), batch, teacher_params)
            return loss.total / loss.weight

        return jax.jit(jax.value_and_grad(of))(student.init(0), batch)

    (value, slope), (first, slope_1), (second, slope_2) = (
        mean(stage, batch),
        mean(own, batch.own),
        mean(tuning, batch.rehearsed),
    )
    assert batch.own.weights.sum() != batch.rehearsed.weights.sum()
    assert float(value) == pytest.approx(float(first + COEFFICIENT * second), rel=1e-5)
    for found, a, b in zip(*map(jax.tree.leaves, (slope, slope_1, slope_2)), strict=True):
        wanted = a + COEFFICIENT * b
        assert np.abs(found - wanted).max() <= 1e-4 * max(1e-3, np.abs(wanted).max())


def test_what_is_rehearsed_is_learned_beside_the_stage(student, teacher_params, own, tuning, batch):
    """The teacher, which knows nothing, teaches nothing of it."""
    optimizer = optax.adam(0.03)

    def after(stage, fed) -> float:
        step = jax.jit(make_step(student, stage, optimizer, 1))
        state = init_state(student.init(0), optimizer)
        for _ in range(6):
            state, _ = step(state, teacher_params, fed)
        loss = tuning.loss(student.bind(state.params), batch.rehearsed, {})
        return float(loss.total / loss.weight)

    alone = after(own, batch.own)
    beside = after(RehearsalStage(own, tuning, COEFFICIENT), batch)
    assert beside < 0.9 * alone


def test_batches_come_in_pairs_and_validation_is_of_the_stage_alone(own, tuning, student, batch):
    class Counts:
        def __init__(self, first, batch):
            self.number, self.batch = first, batch

        def next(self, params):
            self.number += 1
            return Loaded(self.batch, (f"{params} {self.number}",), {"n": self.number})

    class Counted:
        def __init__(self, batch):
            self.batch = batch

        def producer(self, start):
            return Counts(start, self.batch)

    producer = RehearsalStage(Counted(batch.own), Counted(batch.rehearsed), 1.0).producer(7)
    loaded = producer.next("theta")
    assert loaded.batch.own is batch.own and loaded.batch.rehearsed is batch.rehearsed
    assert loaded.skipped == ("theta 8", "theta 8") and loaded.numbers == {"n": 8}
    assert loaded.batch.segments is batch.own.segments

    params = student.init(0)
    stage = RehearsalStage(own, tuning, COEFFICIENT)
    found, wanted = (
        one.loss(student.bind(params), batch.own, params).total for one in (stage, own)
    )
    assert float(found) == float(wanted)
