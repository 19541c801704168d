"""Rehearsal: the loss is a weighted sum of two means, and rehearsed data is learned."""

import jax
import numpy as np
import optax
import pytest

from data_pipelines.loader import LoadedBatch
from data_pipelines.media_error import SkippedSample
from ivx.stages.distillation import DistillationStage
from ivx.stages.language_model import LanguageModelStage
from ivx.stages.rehearsal import RehearsalBatch, RehearsalStage
from ivx.training.step import init_state, make_step
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
def distilling(student, teacher_params, shape) -> DistillationStage:
    return DistillationStage(None, student, lambda mesh: teacher_params, shape, 1, [])


@pytest.fixture(scope="module")
def tuning() -> LanguageModelStage:
    return LanguageModelStage(lambda first: iter(()), [], "token")


@pytest.fixture(scope="module")
def batch(layouts, shape) -> RehearsalBatch:
    return jax.device_put(RehearsalBatch(pack(layouts[:2], shape), pack(layouts[2:5], shape)))


def test_loss_and_gradient_are_weighted_sum_of_two_means(
    student, teacher_params, distilling, tuning, batch
):
    """The two batches have different numbers of trained tokens."""
    stage = RehearsalStage(distilling, tuning, COEFFICIENT)

    def mean(stage, batch):
        def loss_of(params, batch):
            loss = stage.loss(student.bind(params), batch, teacher_params)
            return loss.total / loss.weight

        return jax.jit(jax.value_and_grad(loss_of))(student.init(0), batch)

    (value, gradient), (first, gradient_1), (second, gradient_2) = (
        mean(stage, batch),
        mean(distilling, batch.own),
        mean(tuning, batch.rehearsed),
    )
    assert batch.own.weights.sum() != batch.rehearsed.weights.sum()
    assert float(value) == pytest.approx(float(first + COEFFICIENT * second), rel=1e-5)
    for actual, a, b in zip(*map(jax.tree.leaves, (gradient, gradient_1, gradient_2)), strict=True):
        expected = a + COEFFICIENT * b
        assert np.abs(actual - expected).max() <= 1e-4 * max(1e-3, np.abs(expected).max())


def test_rehearsed_data_is_learned_alongside_the_stage(
    student, teacher_params, distilling, tuning, batch
):
    """The untrained teacher teaches nothing about it."""
    optimizer = optax.adam(0.03)

    def loss_after_training(stage, batches) -> float:
        step = jax.jit(make_step(student, stage, optimizer))
        state = init_state(student.init(0), optimizer)
        for _ in range(6):
            state, _ = step(state, teacher_params, batches)
        loss = tuning.loss(student.bind(state.params), batch.rehearsed, {})
        return float(loss.total / loss.weight)

    alone = loss_after_training(distilling, batch.own)
    with_rehearsal = loss_after_training(RehearsalStage(distilling, tuning, COEFFICIENT), batch)
    assert with_rehearsal < 0.9 * alone


def test_batches_are_paired_and_validation_uses_stage_alone(distilling, tuning, student, batch):
    class CountingProducer:
        def __init__(self, first, batch):
            self.number, self.batch = first, batch

        def next(self, params):
            self.number += 1
            skipped = (SkippedSample(f"{params['name']} {self.number}"),)
            return LoadedBatch(self.batch, skipped, {"n": self.number})

    class CountingStage(LanguageModelStage):
        def __init__(self, batch):
            self.batch = batch

        def producer(self, start):
            return CountingProducer(start, self.batch)

    producer = RehearsalStage(
        CountingStage(batch.own), CountingStage(batch.rehearsed), 1.0
    ).producer(7)
    loaded = producer.next({"name": "theta"})
    assert loaded.batch.own is batch.own and loaded.batch.rehearsed is batch.rehearsed
    assert loaded.skipped == ("theta 8", "theta 8") and loaded.metrics == {"n": 8}
    assert loaded.batch.segments is batch.own.segments

    params = student.init(0)
    stage = RehearsalStage(distilling, tuning, COEFFICIENT)
    actual, expected = (
        s.loss(student.bind(params), batch.own, params).total for s in (stage, distilling)
    )
    assert float(actual) == float(expected)
