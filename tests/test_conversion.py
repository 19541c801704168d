"""The cases in which an approximation of the conversion loses nothing, in float64.

T1 to T7 are those of the derivation in docs/conversion.md, at a small size and at the published
head geometry. Whole models are in test_convert.py.
"""

import itertools

import numpy as np
import pytest

from ivx.conversion import latent_layer, qk_norm, rotation, weighting
from ivx.conversion.latent_layer import AffineLayer
from ivx.conversion.method import Method
from ivx.errors import UserError
from tests import attention_float64 as f64
from tests.attention_float64 import PUBLISHED, SMALL, TOKENS, Geometry, distance, inputs

EXACT = 1e-12
geometries = pytest.mark.parametrize(
    "geometry", [SMALL, PUBLISHED], ids=lambda geometry: f"{geometry.kv_heads}x{geometry.head_dim}"
)
PLAIN = Method(rotation="real")
# At full rank and with t = 1 all methods agree.
METHODS = [
    Method(rotation=rotation_kind, weighting=weighting_kind)
    for rotation_kind, weighting_kind in itertools.product(rotation.KINDS, weighting.KINDS)
]


def change_of_basis(layer: AffineLayer, geometry: Geometry, kind: str) -> rotation.Rotation:
    x, half = inputs(geometry), geometry.head_dim // 2
    keys = x @ layer.k
    energy = np.square(x @ layer.q).sum(0).reshape(geometry.kv_heads, -1, 2, half).sum((1, 2))
    return rotation.gather_positions(keys.T @ keys, geometry.kv_heads, kind, energy)


@geometries
@pytest.mark.parametrize("kind", rotation.KINDS)
def test_t1_attention_is_preserved_if_all_virtual_heads_keep_rope(geometry: Geometry, kind: str):
    layer, x = f64.random_layer(geometry), inputs(geometry)[:TOKENS]
    angles = f64.angles(geometry)
    basis = change_of_basis(layer, geometry, kind)
    identity = np.eye(len(basis.to))
    np.testing.assert_allclose(basis.back @ basis.to, identity, atol=EXACT)
    if kind != "weighted":
        np.testing.assert_allclose(basis.to @ basis.to.T, identity, atol=EXACT)
    all_roped = f64.rotated(x, layer, basis, angles, geometry.kv_heads, geometry)
    assert distance(all_roped, f64.grouped(x, layer, angles, geometry)) < EXACT
    # The basis changes something: without rope on the other heads the result is far off.
    assert distance(f64.rotated(x, layer, basis, angles, 1, geometry), all_roped) > 0.01


@geometries
def test_t2_full_rank_latent_equals_rope_on_one_head(geometry: Geometry):
    layer, x = f64.random_layer(geometry), inputs(geometry)[:TOKENS]
    angles = f64.angles(geometry)
    basis = change_of_basis(layer, geometry, "real")
    expected = f64.rotated(x, layer, basis, angles, 1, geometry)
    converted = f64.converted(layer, geometry, geometry.whole, PLAIN)
    assert distance(f64.latent(x, converted, angles, geometry), expected) < EXACT


@geometries
def test_t3_absorbed_attention_equals_materialised(geometry: Geometry):
    layer = f64.converted(f64.random_layer(geometry), geometry, geometry.whole // 4, PLAIN)
    x, angles = inputs(geometry)[:TOKENS], f64.angles(geometry)
    absorbed = f64.absorbed(x, layer, angles, geometry)
    assert distance(absorbed, f64.latent(x, layer, angles, geometry)) < EXACT


@geometries
def test_t4_full_rank_latent_is_exact_if_nothing_rotates(geometry: Geometry):
    layer, x = f64.random_layer(geometry), inputs(geometry)[:TOKENS]
    angles = f64.angles(geometry, still=True)
    method = Method(rotation="complex", weighting="output")
    converted = f64.converted(layer, geometry, geometry.whole, method)
    expected = f64.grouped(x, layer, angles, geometry)
    assert distance(f64.latent(x, converted, angles, geometry), expected) < EXACT


@geometries
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_t5_keys_of_one_direction_need_no_rank_beyond_the_values(geometry: Geometry, kind: str):
    """The rank of the values is that of the input. Heads out of phase take a complex rotation."""
    layer = f64.one_direction(f64.random_layer(geometry), geometry, out_of_phase=kind == "complex")
    x, angles = inputs(geometry)[:TOKENS], f64.angles(geometry)
    shared = f64.shared(layer, geometry, geometry.width, Method(rotation=kind))
    assert shared.ratio == 1.0 and shared.rope_energy == pytest.approx(1)
    converted = latent_layer.latent_layer(layer, shared)
    expected = f64.grouped(x, layer, angles, geometry)
    assert distance(f64.latent(x, converted, angles, geometry), expected) < EXACT


def test_t5_needs_complex_rotation_if_heads_are_out_of_phase():
    layer = f64.one_direction(f64.random_layer(), SMALL, out_of_phase=True)
    x, angles = inputs()[:TOKENS], f64.angles()
    converted = f64.converted(layer, SMALL, SMALL.width, Method(rotation="real"))
    expected = f64.grouped(x, layer, angles, SMALL)
    assert distance(f64.latent(x, converted, angles, SMALL), expected) > 0.01


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.rotation}-{m.weighting}")
def test_t6_every_method_preserves_scale_and_layout(method: Method):
    """The factor of the queries, the pairs of rope, the inverse of each weighting."""
    layer, x, angles = f64.random_layer(), inputs()[:TOKENS], f64.angles()
    basis = change_of_basis(layer, SMALL, method.rotation)
    expected = f64.rotated(x, layer, basis, angles, 1, SMALL)
    converted = f64.converted(layer, SMALL, SMALL.whole, method)
    # A weighting multiplies and divides by its weights: a range of 1 to 1,000 costs three digits.
    tolerance = 1e-9 if method.weighting == "output" else EXACT
    assert distance(f64.latent(x, converted, angles, SMALL), expected) < tolerance


@geometries
def test_t7_norm_is_linear_if_rms_is_constant(geometry: Geometry):
    """Orthogonal heads of inputs that all have one length; the ridge must not matter."""
    rng, width = np.random.default_rng(3), geometry.head_dim
    x = rng.standard_normal((2000, width)) * np.arange(1, width + 1) ** 0.5
    x *= 4 / np.linalg.norm(x, axis=1, keepdims=True)
    x = np.hstack([x, np.ones((len(x), 1))])
    kernel = np.hstack([3 * f64.orthogonal(rng, width), 0.2 * f64.orthogonal(rng, width)])
    scale = rng.uniform(0.5, 2, width)
    q = f64.normed(x[:, :-1], kernel, scale)
    for ridge in (1e-6, 1e-3, 1.0):
        fitted = qk_norm.fit(kernel, scale, x.T @ x, x.T @ q, ridge)
        assert distance(x @ fitted, q) < EXACT


def test_balance_without_guard_amplifies_noise(monkeypatch: pytest.MonkeyPatch):
    """The second half of T5: keys that all lie in the rope head must not be balanced."""
    monkeypatch.setattr(weighting, "NEGLIGIBLE", 0.0)
    layer, x = f64.one_direction(f64.random_layer(), SMALL), inputs()[:TOKENS]
    assert f64.shared(layer, SMALL, SMALL.width, PLAIN).ratio < 1e-6
    converted = f64.converted(layer, SMALL, SMALL.width, PLAIN)
    angles = f64.angles()
    expected = f64.grouped(x, layer, angles, SMALL)
    assert distance(f64.latent(x, converted, angles, SMALL), expected) > 1e-3


def test_rank_wider_than_keys_and_values_is_rejected():
    with pytest.raises(UserError, match="latent of rank 113 is wider than the 112"):
        f64.converted(f64.random_layer(), SMALL, 113, PLAIN)
