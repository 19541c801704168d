"""What trains, how fast, what is averaged, what is dropped: by default nothing of it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ivx.errors import UserError
from ivx.training import checkpoint, loop
from ivx.training.drop_path import drop_paths
from ivx.training.parts import Parts
from ivx.training.state import USUAL, StepOptions, init_state, make_step
from tests import toy


def step(optimizer, options=USUAL, steps: int = 1):
    """The toy's state before and after."""
    stage, definition = toy.Stage(), toy.Definition()
    one = jax.jit(make_step(definition, stage, optimizer, 1, options))
    before = state = init_state(definition.init(0), optimizer, options.ema > 0)
    states = [before]
    for number in range(steps):
        state, metrics = one(state, {}, toy.batch_of(number))
        states.append(state)
    return states, metrics


def changed(a, b) -> dict[str, bool]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): not np.array_equal(x, y)
        for (path, x), y in zip(
            jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
        )
    }


def test_the_first_pattern_counts_and_freezing_wins():
    parts = Parts(("first.*", "second.bias"), ("*.bias",), (("first.*", 0.1), ("*", 0.5)))
    assert parts.trains("first.kernel") and not parts.trains("first.bias")
    assert not parts.trains("second.kernel") and not parts.trains("second.bias")
    assert parts.rate("first.kernel") == 0.1 and parts.rate("second.kernel") == 0.5
    assert Parts().trains("anything") and Parts().rate("anything") == 1.0


def test_a_pattern_that_takes_nothing_is_refused():
    params = toy.Definition().abstract_params
    with pytest.raises(UserError, match=r"no parameter is called 'third.*there are first\.bias"):
        Parts(train=("third.*",)).check(params)
    with pytest.raises(UserError, match="leave nothing to train"):
        Parts(freeze=("*",)).check(params)
    Parts(("first.*",), ("*.bias",), (("second.*", 2.0),)).check(params)


def test_only_what_trains_moves_and_has_moments():
    parts = Parts(train=("first.*",))
    optimizer = parts.limit(optax.adamw(1e-2, weight_decay=0.1))
    (before, after), metrics = step(optimizer, StepOptions(parts))
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


def test_rates_scale_the_whole_update():
    plain = step(optax.adamw(1e-2, weight_decay=0.1))[0]
    parts = Parts(rates=(("first.kernel", 0.25), ("second.*", 0.0)))
    slow = step(parts.limit(optax.adamw(1e-2, weight_decay=0.1)), StepOptions(parts))[0]
    moved = [
        jax.tree.map(lambda a, b: b - a, before.params, after.params)
        for before, after in (plain, slow)
    ]
    np.testing.assert_allclose(
        moved[1]["first"]["kernel"], 0.25 * moved[0]["first"]["kernel"], rtol=1e-4, atol=1e-8
    )
    np.testing.assert_array_equal(moved[1]["first"]["bias"], moved[0]["first"]["bias"])
    assert not np.any(moved[1]["second"]["kernel"])


def test_the_mean_follows_by_hand():
    """d is 1/10 in the first step and 2/11 in the second."""
    states, _ = step(optax.sgd(0.1), StepOptions(ema=0.99), steps=2)
    kernels = [np.asarray(one.params["first"]["kernel"], np.float64) for one in states]
    mean = kernels[0] * 1 / 10 + kernels[1] * 9 / 10
    mean = mean * 2 / 11 + kernels[2] * 9 / 11
    np.testing.assert_allclose(states[2].averaged["first"]["kernel"], mean, rtol=1e-5, atol=1e-7)
    assert step(optax.sgd(0.1))[0][1].averaged is None


def test_the_mean_is_stored_and_read_back(tmp_path):
    toy.train(tmp_path, steps=3, options=StepOptions(Parts(freeze=("*.bias",)), ema=0.9))
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
    # And the run goes on with it.
    result = toy.train(tmp_path, steps=5, options=StepOptions(Parts(freeze=("*.bias",)), ema=0.9))
    assert result.steps == 5


def test_blocks_of_the_tower_are_dropped_whole_and_made_up_for():
    depth, rate = 8, 0.5
    rng = np.random.default_rng(0)
    leaf = {"kernel": jnp.asarray(rng.normal(size=(depth, 4, 4))), "bias": jnp.ones((depth, 4))}
    blocks = {"proj": leaf, "linear_fc1": leaf, "linear_fc2": leaf}
    params = {"visual": {"blocks": blocks, "merger": leaf}, "lm_head": leaf}
    drawn = [drop_paths(params, rate, jax.random.key(n)) for n in range(400)]
    for name in ("proj", "linear_fc2"):
        factors = np.stack([one["visual"]["blocks"][name]["bias"][:, 0] for one in drawn])
        kept = 1 - rate * np.arange(1, depth + 1) / depth
        assert all(
            set(np.unique(f)) <= {0, np.float32(1 / k)}
            for f, k in zip(factors.T, kept, strict=True)
        )
        np.testing.assert_allclose((factors > 0).mean(0), kept, atol=0.1)
        one = drawn[0]["visual"]["blocks"][name]
        np.testing.assert_allclose(one["kernel"], leaf["kernel"] * one["bias"][:, :, None])
    for one in (drawn[0]["visual"]["blocks"]["linear_fc1"], drawn[0]["lm_head"]):
        np.testing.assert_array_equal(one["kernel"], leaf["kernel"])
    assert loop.RunSpec(1, 0, 1, 1, 1, 1, 1, 1).options.drop_path == 0
