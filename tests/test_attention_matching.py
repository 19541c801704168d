"""The trained part of a conversion: its loss written out in float64, and what training changes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from data_pipelines.batch import Batch
from data_pipelines.layout import Layout
from data_pipelines.packing import PackShape
from ivx.conversion import convert, statistics
from ivx.conversion.method import Method
from ivx.models.definition import ModelDefinition, Params
from ivx.models.rope import text_rope
from ivx.parallel.mesh import AXES
from ivx.stages.attention_matching import AttentionMatchingStage
from ivx.training.step import init_state, make_step
from tests.conftest import pack, small_spec
from tests.residuals import saved_residuals
from tests.test_convert import KeepsInput


@pytest.fixture(scope="module")
def original() -> ModelDefinition:
    return ModelDefinition(small_spec("gqa"))


@pytest.fixture(scope="module")
def original_params(original: ModelDefinition) -> Params:
    return original.init(1)


@pytest.fixture(scope="module")
def converted() -> ModelDefinition:
    return ModelDefinition(small_spec("m2la"))


@pytest.fixture(scope="module")
def batch(layouts: list[Layout], shape: PackShape) -> Batch:
    return jax.tree.map(jnp.asarray, pack(layouts[:3], shape))


@pytest.fixture(scope="module")
def stage(original: ModelDefinition, original_params: Params) -> AttentionMatchingStage:
    return AttentionMatchingStage(original, lambda mesh: original_params, None, [])


def attention_inputs(definition: ModelDefinition, params: Params, batch: Batch) -> jax.Array:
    """The input of each layer's attention, [L, B, T, D]."""

    @jax.jit
    def run(params: Params) -> jax.Array:
        model = definition.bind(params)
        layers = model.language_model.layers
        layers.self_attn = KeepsInput(layers.self_attn)
        return model(batch, keep_cache=True).cache

    return run(params)


def attention_outputs(
    definition: ModelDefinition, params: Params, x_lbtd: jax.Array, batch: Batch
) -> np.ndarray:
    """The output of each layer's attention on these inputs, float64 [L, tokens, D]."""
    text = definition.spec.text

    @jax.jit
    def run(params: Params, x_lbtd: jax.Array) -> jax.Array:
        rope = text_rope(batch.positions, text.head_dim, text.rope_theta, text.mrope_sections)
        graph, state = nnx.split(definition.bind(params).language_model.layers.self_attn)
        return jax.lax.map(
            lambda layer: nnx.merge(graph, layer[0])(layer[1], rope, batch.segments)[0],
            (state, x_lbtd),
        )

    return np.asarray(run(params, x_lbtd), np.float64)[:, batch.segments > 0]


def test_loss_is_the_mean_relative_error_of_the_layers(
    stage: AttentionMatchingStage,
    original: ModelDefinition,
    original_params: Params,
    converted: ModelDefinition,
    batch: Batch,
):
    """The batch holds padding, which does not count."""
    params = converted.init(2)
    x_lbtd = attention_inputs(original, original_params, batch)
    targets = attention_outputs(original, original_params, x_lbtd, batch)
    outputs = attention_outputs(converted, params, x_lbtd, batch)
    errors = np.square(outputs - targets).sum((1, 2)) / np.square(targets).sum((1, 2))
    assert 0 < (batch.segments > 0).sum() < batch.segments.size

    loss = stage.loss(converted.bind(params), batch, original_params)
    assert float(loss.total / loss.weight) == pytest.approx(errors.mean(), rel=1e-5)
    for layer, error in enumerate(errors):
        numerator, denominator = loss.means[f"convert/error_layer_{layer}"]
        assert float(numerator / denominator) == pytest.approx(error, rel=1e-5)


def test_gradient_matches_the_formula_and_no_activation_is_saved(
    stage: AttentionMatchingStage,
    original: ModelDefinition,
    original_params: Params,
    converted: ModelDefinition,
    batch: Batch,
):
    params = converted.init(2)
    x_lbtd = attention_inputs(original, original_params, batch)
    targets = attention_outputs(original, original_params, x_lbtd, batch)
    text, has_token = converted.spec.text, np.asarray(batch.segments) > 0

    def formula_loss(params: Params) -> jax.Array:
        rope = text_rope(batch.positions, text.head_dim, text.rope_theta, text.mrope_sections)
        graph, state = nnx.split(converted.bind(params).language_model.layers.self_attn)
        errors = []
        for index, energy in enumerate(np.square(targets).sum((1, 2))):
            layer = jax.tree.map(lambda a, n=index: a[n], state)
            output = nnx.merge(graph, layer)(x_lbtd[index], rope, batch.segments)[0]
            target = np.zeros(output.shape)
            target[has_token] = targets[index]
            errors.append(
                jnp.square(jnp.where(has_token[..., None], output - target, 0)).sum() / energy
            )
        return sum(errors) / len(errors)

    def stage_loss(params: Params) -> jax.Array:
        loss = stage.loss(converted.bind(params), batch, original_params)
        return loss.total / loss.weight

    expected, gradients = (jax.jit(jax.grad(loss))(params) for loss in (formula_loss, stage_loss))
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected):
        gradient = dict(jax.tree_util.tree_leaves_with_path(gradients))[path]
        assert np.abs(leaf - gradient).max() <= 1e-4 * np.abs(leaf).max(), path
        assert np.abs(leaf).max() > 0 or "self_attn" not in jax.tree_util.keystr(path)

    residuals = saved_residuals(stage_loss, params)
    assert residuals and not [r for r in residuals if batch.tokens.shape[1] in r.shape]


def test_loss_of_the_original_attention_is_zero(
    stage: AttentionMatchingStage, original: ModelDefinition, original_params: Params, batch: Batch
):
    loss = stage.loss(original.bind(original_params), batch, original_params)
    assert float(loss.total) == 0 and float(loss.weight) == (batch.segments > 0).sum()


def test_training_halves_the_error_and_changes_attention_only(
    stage: AttentionMatchingStage,
    original: ModelDefinition,
    original_params: Params,
    converted: ModelDefinition,
    batch: Batch,
):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1, 1), AXES)
    sums = statistics.collect(original, original_params, lambda first: [batch][first:], mesh)
    initial = convert.convert(original, original_params, sums, Method()).params
    optimizer = optax.adam(3e-3)
    step = jax.jit(make_step(converted, stage, optimizer))
    state, errors = init_state(initial, optimizer), []
    for _ in range(30):
        state, metrics = step(state, original_params, batch)
        errors.append(float(metrics["loss/total"]))
    assert errors[-1] < 0.5 * errors[0]

    before = dict(jax.tree_util.tree_leaves_with_path(initial))
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        name = jax.tree_util.keystr(path)
        assert np.array_equal(leaf, before[path]) == ("self_attn" not in name), name
