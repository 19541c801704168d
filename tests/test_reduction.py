"""Loss reductions against L = sum n^p sum CE / sum n^(p+1) in float64; accumulation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ivx.models.definition import ModelDefinition
from ivx.stages.language_model import LanguageModelStage
from ivx.stages.protocol import Loss
from ivx.stages.reduction import token_weights
from ivx.training.step import StepOptions, init_state, make_step
from tests.bigrams import Bigrams
from tests.conftest import pack, small_spec

# Two packs: samples of 3 and 1 trained tokens, then one of 2, then one with none; 0 is padding.
SEGMENTS = np.array([[1, 1, 1, 1, 2, 2, 0], [1, 1, 1, 2, 2, 0, 0]], np.int32)
WEIGHTS = np.array([[1, 1, 1, 0, 1, 0, 0], [0, 1, 1, 0, 0, 0, 0]], np.float32)


@pytest.mark.parametrize(
    ("reduction", "power"), [("token", 0.0), ("square", -0.5), ("sample", -1.0)]
)
def test_reduction_equals_the_formula(reduction, power):
    losses = np.random.default_rng(0).uniform(0.1, 3, SEGMENTS.shape)
    sizes = {(0, 1): 3, (0, 2): 1, (1, 1): 2}
    numerator = sum(
        n**power * losses[b][(SEGMENTS[b] == s) & (WEIGHTS[b] > 0)].sum()
        for (b, s), n in sizes.items()
    )
    denominator = sum(n ** (power + 1) for n in sizes.values())
    weights = token_weights(jnp.asarray(WEIGHTS), jnp.asarray(SEGMENTS), reduction)
    weights = np.asarray(weights, np.float64)
    assert (weights * losses).sum() / weights.sum() == pytest.approx(
        numerator / denominator, rel=1e-6
    )


@pytest.fixture(scope="module")
def four(layouts, shape):
    """Four packs with different numbers of trained tokens."""
    packs = [pack(layouts[i : i + n], shape) for i, n in ((0, 1), (1, 2), (3, 1), (4, 2))]
    return jax.tree.map(lambda *rows: np.concatenate(rows), *packs)


@pytest.mark.parametrize(
    ("definition", "reduction"),
    [
        (Bigrams(), "token"),
        (Bigrams(), "square"),
        (Bigrams(), "sample"),
        (ModelDefinition(small_spec()), "square"),
    ],
    ids=["token", "square", "sample", "real model"],
)
def test_accumulation_leaves_loss_and_parameters_unchanged(four, definition, reduction):
    """One batch of four packs gives the same as four micro-batches of one pack."""
    stage, optimizer = LanguageModelStage(None, [], reduction), optax.sgd(0.1)
    start = init_state(definition.init(0), optimizer)
    (whole, whole_metrics), (split, split_metrics) = (
        jax.jit(make_step(definition, stage, optimizer, StepOptions(accumulation)))(start, {}, four)
        for accumulation in (1, 4)
    )
    assert float(split_metrics["loss/total"]) == pytest.approx(
        float(whole_metrics["loss/total"]), rel=1e-5
    )
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(split.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


class PoisonedStage(LanguageModelStage):
    """A stage whose loss is NaN if the batch contains token 1."""

    def loss(self, model, batch, frozen):
        clean = super().loss(model, batch, frozen)
        poison = jnp.where((batch.tokens == 1).any(), jnp.nan, 1.0)
        return Loss(clean.total * poison, clean.weight, clean.sums, clean.means)


def test_non_finite_step_changes_nothing_and_is_counted(layouts, shape):
    definition, optimizer = Bigrams(), optax.adam(0.1)
    state = init_state(definition.init(0), optimizer)
    step = jax.jit(make_step(definition, PoisonedStage(None, [], "token"), optimizer))
    good = pack(layouts[:1], shape)
    bad_tokens = good.tokens.copy()
    bad_tokens[0, -1] = 1
    after, metrics = step(state, {}, dataclasses.replace(good, tokens=bad_tokens))
    assert int(after.skipped) == 1 and int(after.step) == 1
    assert not np.isfinite(float(metrics["loss/total"]))
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(after.params), strict=True):
        np.testing.assert_array_equal(a, b)
    recovered, metrics = step(after, {}, good)
    assert int(recovered.skipped) == 1
    assert np.isfinite(float(metrics["loss/total"]))
