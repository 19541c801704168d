"""Sequential conversion and output refit: exact if nothing is lost, better if something is."""

import dataclasses

import jax
import numpy as np
import pytest

from data_pipelines.batch import Batch
from data_pipelines.layout import Layout
from data_pipelines.packing import PackShape
from ivx.conversion import convert, output_projection, sequential, statistics, steps
from ivx.conversion.method import Method
from ivx.models.definition import ModelDefinition, Params
from ivx.parallel.mesh import AXES
from ivx.stages import attention_matching
from tests.attention_float64 import distance
from tests.conftest import pack, small_spec

FULL_RANK = 48  # nothing is compressed


@pytest.fixture(scope="module")
def batch(layouts: list[Layout], shape: PackShape) -> Batch:
    return pack(layouts[:3], shape)


@pytest.fixture(scope="module")
def mesh() -> jax.sharding.Mesh:
    return jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1, 1), AXES)


def source_model(rank: int) -> ModelDefinition:
    spec = small_spec("gqa")
    return ModelDefinition(
        dataclasses.replace(spec, text=dataclasses.replace(spec.text, kv_rank=rank))
    )


@pytest.fixture(scope="module")
def params() -> Params:
    return source_model(FULL_RANK).init(5)


def refined(
    params: Params, batch: Batch, mesh: jax.sharding.Mesh, method: Method, kind: str, rank: int
) -> convert.Converted:
    return sequential.refine(
        source_model(rank), params, lambda first: [batch][first:], mesh, method, kind, (rank,) * 3
    )


def hidden(definition: ModelDefinition, params: Params, batch: Batch) -> np.ndarray:
    states = jax.jit(lambda p, b: definition.bind(p)(b).hidden)(params, batch)
    return np.asarray(states)[batch.segments > 0]


def layer_errors(
    source: ModelDefinition,
    params: Params,
    target: ModelDefinition,
    converted: Params,
    batch: Batch,
) -> np.ndarray:
    errors, energies = jax.jit(
        lambda a, b, batch: attention_matching.errors(source.bind(a), target.bind(b), batch)
    )(params, converted, batch)
    return np.sqrt(np.asarray(errors) / np.asarray(energies))


def test_lossless_conversion_changes_nothing(params: Params, batch: Batch, mesh: jax.sharding.Mesh):
    """Norm and rope kept, full rank: no layer has a loss to recover, whatever the ridge."""
    source = source_model(FULL_RANK)
    method = Method(sequential=True, fit_output=True, ridge=1e-2)
    result = refined(params, batch, mesh, method, "m2la_exact", FULL_RANK)
    target = steps.latent_definition(source, FULL_RANK, "m2la_exact")
    expected = hidden(source, params, batch)
    assert distance(hidden(target, result.params, batch), expected) < 1e-4


@pytest.fixture(scope="module")
def single_pass(params: Params, batch: Batch, mesh: jax.sharding.Mesh) -> Params:
    """The conversion from one pass."""
    source = source_model(12)
    sums = statistics.collect(source, params, lambda first: [batch][first:], mesh)
    return convert.convert(source, params, sums, Method(ridge=1e-6)).params


@pytest.mark.slow
def test_only_layers_above_the_first_are_fitted_on_other_inputs(
    single_pass: Params, params: Params, batch: Batch, mesh: jax.sharding.Mesh
):
    method = Method(sequential=True, ridge=1e-6)
    result = refined(params, batch, mesh, method, "m2la", 12).params
    a, b = (
        np.asarray(tree["language_model"]["layers"]["self_attn"]["q_proj"]["kernel"])
        for tree in (single_pass, result)
    )
    assert distance(b[0], a[0]) < 1e-3
    assert distance(b[2], a[2]) > 1e-2


def test_output_fit_is_least_squares():
    rng = np.random.default_rng(0)
    c, y, o = (rng.standard_normal(shape) for shape in ((200, 12), (200, 7), (12, 7)))
    sums = {"heads": c.T @ c, "targets": c.T @ y}
    np.testing.assert_allclose(
        output_projection.solve(o, sums, 0.0), np.linalg.lstsq(c, y)[0], atol=1e-12
    )
    # A large ridge keeps the projection of the source.
    np.testing.assert_allclose(output_projection.solve(o, sums, 1e12), o, atol=1e-9)


def test_output_fit_reduces_the_error_of_every_layer(
    single_pass: Params, params: Params, batch: Batch, mesh: jax.sharding.Mesh
):
    """Measured on the batch of the fit."""
    method = Method(fit_output=True, ridge=1e-6)
    refitted = refined(params, batch, mesh, method, "m2la", 12).params
    source, target = source_model(12), steps.latent_definition(source_model(12), 12)
    errors, refitted_errors = (
        layer_errors(source, params, target, tree, batch) for tree in (single_pass, refitted)
    )
    assert (refitted_errors < 0.95 * errors).all()
