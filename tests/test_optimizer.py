"""The optimizer and its schedule, as in the released trainer."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ivx.errors import UserError
from ivx.training.optimizer import OptimizerSpec, learning_rate, make_optimizer

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


def test_schedule_warms_up_from_zero_and_decays_to_floor():
    rate = learning_rate(SPEC)
    assert float(rate(0)) == 0
    assert float(rate(5)) == pytest.approx(1.5e-5, rel=1e-6)
    assert float(rate(10)) == pytest.approx(3e-5, rel=1e-6)
    half = 1e-6 + (3e-5 - 1e-6) * (1 + math.cos(math.pi / 2)) / 2
    assert float(rate(55)) == pytest.approx(half, rel=1e-5)
    assert float(rate(99)) > 1e-6
    assert float(rate(100)) == pytest.approx(1e-6, rel=1e-5)


def test_schedule_without_warmup_starts_at_peak():
    assert float(learning_rate(dataclasses.replace(SPEC, warmup=0.0))(0)) == pytest.approx(3e-5)


def test_warmup_of_all_steps_is_refused():
    with pytest.raises(UserError, match=r"lower optim\.warmup"):
        learning_rate(dataclasses.replace(SPEC, warmup=1.0, steps=10))


def test_adamw_step_equals_formula():
    """Clipped gradient, bias-corrected moments, and decay of every parameter, including biases."""
    spec = dataclasses.replace(SPEC, warmup=0.0, learning_rate=0.1, floor=0.1, eps=1e-8)
    optimizer = make_optimizer(spec)
    params = {"kernel": jnp.array([2.0]), "bias": jnp.array([-1.0])}
    grads = {"kernel": jnp.array([3.0]), "bias": jnp.array([4.0])}  # norm 5, clipped to 1
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    # After one step m / sqrt(v) is the sign of the gradient, whatever the betas.
    assert float(updates["kernel"][0]) == pytest.approx(-0.1 * (1 + 0.05 * 2.0), rel=1e-5)
    assert float(updates["bias"][0]) == pytest.approx(-0.1 * (1 - 0.05 * 1.0), rel=1e-5)


def test_clipping_uses_global_norm():
    optimizer = make_optimizer(dataclasses.replace(SPEC, warmup=0.0))
    params = {"a": jnp.zeros(2)}
    state = optimizer.update({"a": jnp.array([30.0, 40.0])}, optimizer.init(params), params)[1]
    moments = optax.tree_utils.tree_get(state, "mu")["a"]
    np.testing.assert_allclose(moments, 0.1 * np.array([0.6, 0.8]), rtol=1e-5)
