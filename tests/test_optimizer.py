"""The learning rate: the released trainer's curve, and an error where that divides by zero."""

import dataclasses
import math

import pytest

from ivx.errors import UserError
from ivx.training.optimizer import OptimizerSpec, learning_rate

SPEC = OptimizerSpec(
    learning_rate=3e-5,
    floor=1e-6,
    warmup=0.1,
    steps=100,
    b1=0.9,
    b2=0.95,
    eps=1e-8,
    weight_decay=0.05,
    clip=1.0,
)


def test_it_rises_from_nothing_and_falls_to_the_floor():
    rate = learning_rate(SPEC)
    assert float(rate(0)) == 0
    assert float(rate(5)) == pytest.approx(1.5e-5, rel=1e-6)
    assert float(rate(10)) == pytest.approx(3e-5, rel=1e-6)
    half = 1e-6 + (3e-5 - 1e-6) * (1 + math.cos(math.pi / 2)) / 2
    assert float(rate(55)) == pytest.approx(half, rel=1e-5)
    assert float(rate(99)) > 1e-6
    assert float(rate(100)) == pytest.approx(1e-6, rel=1e-5)


def test_without_warmup_it_starts_at_the_peak():
    assert float(learning_rate(dataclasses.replace(SPEC, warmup=0.0))(0)) == pytest.approx(3e-5)


def test_warmup_that_leaves_no_step_is_an_error():
    with pytest.raises(UserError, match=r"lower optim\.warmup"):
        learning_rate(dataclasses.replace(SPEC, warmup=0.999, steps=0))
