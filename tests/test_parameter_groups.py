"""Parameter groups, moving average and stochastic depth; all are off by default."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ivx.errors import UserError
from ivx.training.checkpoints import checkpoint
from ivx.training.drop_path import drop_paths
from ivx.training.parameter_groups import ParameterGroups
from ivx.training.step import PLAIN, StepOptions, init_state, make_step
from tests import toy


def step(optimizer, options=PLAIN, steps: int = 1):
    """The toy's states before and after each step, and the last metrics."""
    stage, definition = toy.Stage(), toy.Definition()
    jitted = jax.jit(make_step(definition, stage, optimizer, options))
    before = state = init_state(definition.init(0), optimizer, options.ema > 0)
    states = [before]
    for number in range(steps):
        state, metrics = jitted(state, {}, toy.batch_of(number))
        states.append(state)
    return states, metrics


def changed(a, b) -> dict[str, bool]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): not np.array_equal(x, y)
        for (path, x), y in zip(
            jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
        )
    }


def test_first_rate_applies_and_freeze_overrides_train():
    groups = ParameterGroups(
        ("first.*", "second.bias"), ("*.bias",), (("first.*", 0.1), ("*", 0.5))
    )
    assert groups.trains("first.kernel") and not groups.trains("first.bias")
    assert not groups.trains("second.kernel") and not groups.trains("second.bias")
    assert groups.rate("first.kernel") == 0.1 and groups.rate("second.kernel") == 0.5
    assert ParameterGroups().trains("anything") and ParameterGroups().rate("anything") == 1.0


def test_pattern_without_match_is_refused():
    params = toy.Definition().abstract_params
    with pytest.raises(UserError, match=r"no parameter matches 'third.*there are first\.bias"):
        ParameterGroups(train=("third.*",)).check(params)
    with pytest.raises(UserError, match="leave nothing to train"):
        ParameterGroups(freeze=("*",)).check(params)
    ParameterGroups(("first.*",), ("*.bias",), (("second.*", 2.0),)).check(params)


def test_only_trained_parameters_change_and_have_moments():
    groups = ParameterGroups(train=("first.*",))
    optimizer = groups.limit(optax.adamw(1e-2, weight_decay=0.1))
    (before, after), metrics = step(optimizer, StepOptions(groups=groups))
    assert changed(before.params, after.params) == {
        "first.bias": True,
        "first.kernel": True,
        "second.bias": False,
        "second.kernel": False,
    }
    moments = optax.tree_utils.tree_get(after.opt_state, "mu")
    assert {path.split(".")[0] for path in changed(moments, moments)} == {"first"}
    assert float(metrics["grad/second"]) == 0 and float(metrics["grad/first"]) > 0
    assert float(metrics["grad/norm"]) == pytest.approx(float(metrics["grad/first"]))


def test_rates_scale_the_update():
    plain = step(optax.adamw(1e-2, weight_decay=0.1))[0]
    groups = ParameterGroups(rates=(("first.kernel", 0.25), ("second.*", 0.0)))
    slow = step(groups.limit(optax.adamw(1e-2, weight_decay=0.1)), StepOptions(groups=groups))[0]
    moved = [
        jax.tree.map(lambda a, b: b - a, before.params, after.params)
        for before, after in (plain, slow)
    ]
    np.testing.assert_allclose(
        moved[1]["first"]["kernel"], 0.25 * moved[0]["first"]["kernel"], rtol=1e-4, atol=1e-8
    )
    np.testing.assert_array_equal(moved[1]["first"]["bias"], moved[0]["first"]["bias"])
    assert not np.any(moved[1]["second"]["kernel"])


def test_moving_average_equals_formula():
    """d is 1/10 in the first step and 2/11 in the second."""
    states, _ = step(optax.sgd(0.1), StepOptions(ema=0.99), steps=2)
    kernels = [np.asarray(s.params["first"]["kernel"], np.float64) for s in states]
    mean = kernels[0] * 1 / 10 + kernels[1] * 9 / 10
    mean = mean * 2 / 11 + kernels[2] * 9 / 11
    np.testing.assert_allclose(states[2].averaged["first"]["kernel"], mean, rtol=1e-5, atol=1e-7)
    assert step(optax.sgd(0.1))[0][1].averaged is None


def test_moving_average_is_stored_and_loaded(tmp_path):
    toy.train(
        tmp_path, steps=3, options=StepOptions(groups=ParameterGroups(freeze=("*.bias",)), ema=0.9)
    )
    abstract = toy.Definition().abstract_params
    params, _ = checkpoint.load_params(tmp_path, abstract)
    mean, step = checkpoint.load_params(tmp_path, abstract, averaged=True)
    assert step == 3
    assert changed(params, mean) == {
        "first.bias": False,
        "first.kernel": True,
        "second.bias": False,
        "second.kernel": True,
    }
    # The run resumes with the average.
    result = toy.train(
        tmp_path, steps=5, options=StepOptions(groups=ParameterGroups(freeze=("*.bias",)), ema=0.9)
    )
    assert result.steps == 5


def test_drop_paths_drops_blocks_and_rescales_kept_ones():
    depth, rate = 8, 0.5
    rng = np.random.default_rng(0)
    leaf = {"kernel": jnp.asarray(rng.normal(size=(depth, 4, 4))), "bias": jnp.ones((depth, 4))}
    blocks = {"proj": leaf, "linear_fc1": leaf, "linear_fc2": leaf}
    params = {"visual": {"blocks": blocks, "merger": leaf}, "lm_head": leaf}
    draws = [drop_paths(params, rate, jax.random.key(n)) for n in range(400)]
    for name in ("proj", "linear_fc2"):
        factors = np.stack([draw["visual"]["blocks"][name]["bias"][:, 0] for draw in draws])
        kept = 1 - rate * np.arange(1, depth + 1) / depth
        assert all(
            set(np.unique(f)) <= {0, np.float32(1 / k)}
            for f, k in zip(factors.T, kept, strict=True)
        )
        np.testing.assert_allclose((factors > 0).mean(0), kept, atol=0.1)
        block = draws[0]["visual"]["blocks"][name]
        np.testing.assert_allclose(block["kernel"], leaf["kernel"] * block["bias"][:, :, None])
    for untouched in (draws[0]["visual"]["blocks"]["linear_fc1"], draws[0]["lm_head"]):
        np.testing.assert_array_equal(untouched["kernel"], leaf["kernel"])
    assert PLAIN.drop_path == 0
