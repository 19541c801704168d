"""The trained part of a conversion: its loss by hand in float64, and what training changes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax._src.ad_checkpoint import saved_residuals

from ivx.conversion import convert, statistics
from ivx.conversion.method import Method
from ivx.models.definition import ModelDefinition
from ivx.models.rope import text_rope
from ivx.parallel.mesh import AXES
from ivx.stages.attention_matching import AttentionMatchingStage
from ivx.training.state import init_state, make_step
from tests.conftest import pack, small_spec
from tests.test_convert import KeepsInput


@pytest.fixture(scope="module")
def original() -> ModelDefinition:
    return ModelDefinition(small_spec("gqa"))


@pytest.fixture(scope="module")
def original_params(original) -> dict:
    return original.init(1)


@pytest.fixture(scope="module")
def converted() -> ModelDefinition:
    return ModelDefinition(small_spec("m2la"))


@pytest.fixture(scope="module")
def batch(layouts, shape):
    return pack(layouts[:3], shape)


@pytest.fixture(scope="module")
def stage(original, original_params) -> AttentionMatchingStage:
    return AttentionMatchingStage(original, lambda mesh: original_params, None, [])


def attention_inputs(definition, params, batch) -> np.ndarray:
    """What the attention of each layer is fed, [L, B, T, D]."""

    @jax.jit
    def run(params):
        model = definition.bind(params)
        layers = model.language_model.layers
        layers.self_attn = KeepsInput(layers.self_attn)
        return model(batch, keep_cache=True).cache

    return run(params)


def attention_outputs(definition, params, x_lbtd, batch) -> np.ndarray:
    """What the attention of each layer gives on these inputs, float64 [L, tokens, D]."""
    text = definition.spec.text

    @jax.jit
    def run(params, x_lbtd):
        rope = text_rope(batch.positions, text.head_dim, text.rope_theta, text.mrope_sections)
        graph, state = nnx.split(definition.bind(params).language_model.layers.self_attn)
        return jax.lax.map(
            lambda one: nnx.merge(graph, one[0])(one[1], rope, batch.segments)[0], (state, x_lbtd)
        )

    return np.asarray(run(params, x_lbtd), np.float64)[:, batch.segments > 0]


def test_the_loss_is_the_mean_relative_error_of_the_layers(
    stage, original, original_params, converted, batch
):
    """Padding stands in the batch and does not count."""
    params = converted.init(2)
    x_lbtd = attention_inputs(original, original_params, batch)
    wanted = attention_outputs(original, original_params, x_lbtd, batch)
    found = attention_outputs(converted, params, x_lbtd, batch)
    errors = np.square(found - wanted).sum((1, 2)) / np.square(wanted).sum((1, 2))
    assert 0 < (batch.segments > 0).sum() < batch.segments.size

    loss = stage.loss(converted.bind(params), batch, original_params)
    assert float(loss.total / loss.weight) == pytest.approx(errors.mean(), rel=1e-5)
    for number, error in enumerate(errors):
        part, whole = loss.means[f"convert/error_layer_{number}"]
        assert float(part / whole) == pytest.approx(error, rel=1e-5)


def test_the_gradient_is_that_of_the_formula_and_nothing_that_was_fed_is_kept(
    stage, original, original_params, converted, batch
):
    params = converted.init(2)
    x_lbtd = attention_inputs(original, original_params, batch)
    wanted = attention_outputs(original, original_params, x_lbtd, batch)
    text, real = converted.spec.text, (batch.segments > 0)[..., None]

    def by_formula(params):
        rope = text_rope(batch.positions, text.head_dim, text.rope_theta, text.mrope_sections)
        graph, state = nnx.split(converted.bind(params).language_model.layers.self_attn)
        errors = []
        for number, energy in enumerate(np.square(wanted).sum((1, 2))):
            layer = jax.tree.map(lambda a, n=number: a[n], state)
            found = nnx.merge(graph, layer)(x_lbtd[number], rope, batch.segments)[0]
            old = np.zeros(found.shape)
            old[batch.segments > 0] = wanted[number]
            errors.append(jnp.square(jnp.where(real, found - old, 0)).sum() / energy)
        return sum(errors) / len(errors)

    def by_stage(params):
        loss = stage.loss(converted.bind(params), batch, original_params)
        return loss.total / loss.weight

    expected, found = (jax.jit(jax.grad(one))(params) for one in (by_formula, by_stage))
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected):
        other = dict(jax.tree_util.tree_leaves_with_path(found))[path]
        assert np.abs(leaf - other).max() <= 1e-4 * np.abs(leaf).max(), path
        assert np.abs(leaf).max() > 0 or "self_attn" not in jax.tree_util.keystr(path)

    kept = [aval for aval, _ in saved_residuals(by_stage, params)]
    assert kept and not [aval for aval in kept if batch.tokens.shape[1] in aval.shape]


def test_attention_is_no_distance_from_itself(stage, original, original_params, batch):
    loss = stage.loss(original.bind(original_params), batch, original_params)
    assert float(loss.total) == 0 and float(loss.weight) == (batch.segments > 0).sum()


def test_training_takes_most_of_the_error_and_touches_attention_alone(
    stage, original, original_params, converted, batch
):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1, 1), AXES)
    sums = statistics.collect(original, original_params, lambda first: [batch][first:], mesh)
    begun = convert.convert(original, original_params, sums, Method()).params
    optimizer = optax.adam(3e-3)
    step = jax.jit(make_step(converted, stage, optimizer, 1))
    state, errors = init_state(begun, optimizer), []
    for _ in range(30):
        state, metrics = step(state, original_params, batch)
        errors.append(float(metrics["loss/total"]))
    assert errors[-1] < 0.5 * errors[0]

    before = dict(jax.tree_util.tree_leaves_with_path(begun))
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        name = jax.tree_util.keystr(path)
        assert np.array_equal(leaf, before[path]) == ("self_attn" not in name), name
