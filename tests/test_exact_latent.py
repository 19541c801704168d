"""`m2la_exact`: keeps the source's norm and rope; its cache projects the source's cache."""

import dataclasses

import jax
import numpy as np
import pytest

from ivx.conversion import convert, latent_layer, shared_latent, statistics
from ivx.conversion.method import Method
from ivx.models.definition import ModelDefinition
from ivx.parallel.mesh import AXES
from tests import attention_float64 as f64
from tests.attention_float64 import PUBLISHED, SMALL, TOKENS, distance
from tests.conftest import pack, small_spec

EXACT = 1e-12
METHODS = [Method(weighting=near) for near in ("plain", "balanced", "output")]


def normed_heads(of: f64.Geometry) -> tuple[np.ndarray, ...]:
    """q and k after QK-norm, v, and o_proj; tokens are axis 0."""
    layer, x = f64.random_layer(of), f64.inputs(of)[:TOKENS]
    rng = np.random.default_rng(8)
    scale_q, scale_k = rng.uniform(0.5, 2, (2, of.head_dim))
    q = f64.normed(x, layer.q, scale_q).reshape(TOKENS, -1, of.head_dim)
    k = f64.normed(x, layer.k, scale_k).reshape(TOKENS, -1, of.head_dim)
    return q, k, (x @ layer.v).reshape(k.shape), layer.o


def converted_and_source(
    of: f64.Geometry, rank: int, method: Method
) -> tuple[np.ndarray, np.ndarray]:
    """Reference attention of the converted layer and of its source."""
    q, k, v, o = normed_heads(of)
    by, group = f64.angles(of), of.heads // of.kv_heads
    expected = f64.on_heads(q, *(np.repeat(a, group, 1) for a in (k, v)), by)

    roped_q, roped_k = f64.turn(q, by), f64.turn(k, by)
    cached = np.hstack([roped_k.reshape(TOKENS, -1), v.reshape(TOKENS, -1)])
    queries = np.einsum("tnh,tni->nhi", roped_q, roped_q)
    layer = latent_layer.exact_keys_and_values(cached.T @ cached, queries, {"kernel": o})
    shared = shared_latent.compress(layer, shared_latent.rotate(layer, method), rank)
    kept = cached @ shared.cached
    assert kept.shape[1] == rank + of.head_dim
    asked = np.einsum("tnh,nhk->tnk", roped_q, shared.query)
    keys_values = np.einsum("sr,rnk->snk", kept[:, :rank], shared.up)
    scores = np.einsum("tnh,snh->nts", asked[..., : of.head_dim], keys_values[..., : of.head_dim])
    scores += np.einsum("tnp,sp->nts", asked[..., of.head_dim :], kept[:, rank:])
    found = f64.attend(scores / np.sqrt(2 * of.head_dim), keys_values[..., of.head_dim :])
    return found, expected


@pytest.mark.parametrize("of", [SMALL, PUBLISHED], ids=lambda of: f"{of.kv_heads}x{of.head_dim}")
def test_layer_of_full_rank_equals_its_source_with_norm_and_rope(of):
    found, expected = converted_and_source(of, of.whole, Method(rotation="complex"))
    assert distance(found, expected) < EXACT


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.weighting)
def test_layer_of_full_rank_equals_its_source_for_every_weighting(method):
    found, expected = converted_and_source(SMALL, SMALL.whole, method)
    # Scaling by weights of 1 to 1,000 and back loses three digits.
    assert distance(found, expected) < (1e-9 if method.weighting == "output" else EXACT)


def test_error_grows_as_rank_shrinks():
    errors = [distance(*converted_and_source(SMALL, rank, Method())) for rank in (8, 16, 24, 32)]
    assert errors == sorted(errors, reverse=True) and errors[-1] > 1e-4


# ------------------------------------------------------------------- the model


@pytest.fixture(scope="module")
def batch(layouts, shape):
    return pack(layouts[:3], shape)


def test_model_of_full_rank_equals_its_source(batch):
    """A random source with video, three-axis positions and padding."""
    source, exact = (
        ModelDefinition(
            dataclasses.replace(
                small_spec(attention),
                text=dataclasses.replace(small_spec(attention).text, kv_rank=48),
            )
        )
        for attention in ("gqa", "m2la_exact")
    )
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1, 1), AXES)
    params = source.init(4)
    norms = params["language_model"]["layers"]["self_attn"]
    rng = np.random.default_rng(9)
    for name in ("q_norm", "k_norm"):
        norms[name]["scale"] = rng.uniform(0.5, 2, (3, 16)).astype(np.float32)
    sums = statistics.collect(source, params, lambda first: [batch][first:], mesh)
    result = convert.to_exact(source, params, sums, Method())
    expected = jax.tree.map(lambda a: (a.shape, a.dtype), exact.abstract_params)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), result.params) == expected
    wanted, found = (
        np.asarray(jax.jit(lambda p, of=of: of.bind(p)(batch).hidden)(weights))[batch.segments > 0]
        for of, weights in ((source, params), (exact, result.params))
    )
    assert distance(found, wanted) < 1e-5
