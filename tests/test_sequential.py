"""Layer by layer and polished: the same where nothing is lost, better where something is."""

import dataclasses

import jax
import numpy as np
import pytest

from ivx.conversion import convert, polish, sequential, statistics, steps
from ivx.conversion.method import Method
from ivx.models.definition import ModelDefinition
from ivx.parallel.mesh import AXES
from ivx.stages import attention_matching
from tests.attention_float64 import distance
from tests.conftest import pack, small_spec

WHOLE = 48  # the rank at which nothing is compressed


@pytest.fixture(scope="module")
def batch(layouts, shape):
    return pack(layouts[:3], shape)


@pytest.fixture(scope="module")
def mesh():
    return jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1, 1), AXES)


def source_of(rank: int) -> ModelDefinition:
    spec = small_spec("gqa")
    return ModelDefinition(
        dataclasses.replace(spec, text=dataclasses.replace(spec.text, kv_rank=rank))
    )


@pytest.fixture(scope="module")
def params() -> dict:
    return source_of(WHOLE).init(5)


def refined(params, batch, mesh, method: Method, kind: str, rank: int) -> convert.Converted:
    return sequential.refine(
        source_of(rank), params, lambda first: [batch][first:], mesh, method, kind, (rank,) * 3
    )


def hidden(definition: ModelDefinition, params, batch) -> np.ndarray:
    found = jax.jit(lambda p: definition.bind(p)(batch).hidden)(params)
    return np.asarray(found)[batch.segments > 0]


def layer_errors(source, params, target, converted, batch) -> np.ndarray:
    errors, energies = jax.jit(
        lambda a, b: attention_matching.errors(source.bind(a), target.bind(b), batch)
    )(params, converted)
    return np.sqrt(np.asarray(errors) / np.asarray(energies))


def test_where_nothing_is_lost_nothing_changes(params, batch, mesh):
    """Norm and rope kept, full rank: a layer has nothing to take back, whatever the ridge."""
    source = source_of(WHOLE)
    method = Method(sequential=True, polish=True, ridge=1e-2)
    found = refined(params, batch, mesh, method, "m2la_exact", WHOLE)
    target = steps.latent_definition(source, WHOLE, "m2la_exact")
    wanted = hidden(source, params, batch)
    assert distance(hidden(target, found.params, batch), wanted) < 1e-4


@pytest.fixture(scope="module")
def once(params, batch, mesh) -> dict:
    """The conversion by one pass."""
    sums = statistics.collect(source_of(12), params, lambda first: [batch][first:], mesh)
    return convert.convert(source_of(12), params, sums, Method(ridge=1e-6)).params


@pytest.mark.slow
def test_the_first_layer_is_fed_the_same_and_the_others_are_not(once, params, batch, mesh):
    found = refined(params, batch, mesh, Method(sequential=True, ridge=1e-6), "m2la", 12).params
    a, b = (
        np.asarray(one["language_model"]["layers"]["self_attn"]["q_proj"]["kernel"])
        for one in (once, found)
    )
    assert distance(b[0], a[0]) < 1e-3
    assert distance(b[2], a[2]) > 1e-2


def test_polish_is_least_squares():
    rng = np.random.default_rng(0)
    c, y, o = (rng.standard_normal(shape) for shape in ((200, 12), (200, 7), (12, 7)))
    found = {"heads": c.T @ c, "wanted": c.T @ y}
    np.testing.assert_allclose(polish.solve(o, found, 0.0), np.linalg.lstsq(c, y)[0], atol=1e-12)
    # Much ridge keeps what there was.
    np.testing.assert_allclose(polish.solve(o, found, 1e12), o, atol=1e-9)


def test_polish_brings_every_layer_nearer(once, params, batch, mesh):
    """On what it was fitted to it has to."""
    polished = refined(params, batch, mesh, Method(polish=True, ridge=1e-6), "m2la", 12).params
    source, target = source_of(12), steps.latent_definition(source_of(12), 12)
    errors, better = (layer_errors(source, params, target, one, batch) for one in (once, polished))
    assert (better < 0.95 * errors).all()
