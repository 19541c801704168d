"""The cases in which a step of the conversion loses nothing, in float64.

T1 to T7 are those of the derivation in docs/conversion.md, at a small size and at the published
head geometry. Whole models are in test_convert.py.
"""

import itertools

import numpy as np
import pytest

from ivx.conversion import affine, latent_layer, rotation, weighting
from ivx.conversion.method import Method
from ivx.errors import UserError
from tests import attention_float64 as f64
from tests.attention_float64 import PUBLISHED, SMALL, TOKENS, Geometry, distance, inputs

EXACT = 1e-12
geometries = pytest.mark.parametrize(
    "of", [SMALL, PUBLISHED], ids=lambda of: f"{of.kv_heads}x{of.head_dim}"
)
PLAIN = Method(rotation="real")
# At full rank and with t = 1 every method has to say the same.
METHODS = [
    Method(rotation=kind, weighting=near)
    for kind, near in itertools.product(rotation.KINDS, weighting.KINDS)
]


def gathered(layer, of: Geometry, kind: str) -> rotation.Rotation:
    keys = inputs(of) @ layer.k
    asked = np.square(inputs(of) @ layer.q).sum(0).reshape(of.kv_heads, -1, 2, of.head_dim // 2)
    return rotation.gather(keys.T @ keys, of.kv_heads, kind, asked.sum((1, 2)))


@geometries
@pytest.mark.parametrize("kind", rotation.KINDS)
def test_t1_attention_stays_while_all_virtual_heads_keep_rope(of, kind):
    layer, x, by = f64.random_layer(of), inputs(of)[:TOKENS], f64.angles(of)
    change = gathered(layer, of, kind)
    np.testing.assert_allclose(change.back @ change.to, np.eye(len(change.to)), atol=EXACT)
    if kind != "weighted":
        np.testing.assert_allclose(change.to @ change.to.T, np.eye(len(change.to)), atol=EXACT)
    all_roped = f64.rotated(x, layer, change, by, of.kv_heads, of)
    assert distance(all_roped, f64.grouped(x, layer, by, of)) < EXACT
    # And it does something: without rope on the other heads the same attention is far off.
    assert distance(f64.rotated(x, layer, change, by, 1, of), all_roped) > 0.01


@geometries
def test_t2_full_rank_equals_rope_on_one_head(of):
    layer, x, by = f64.random_layer(of), inputs(of)[:TOKENS], f64.angles(of)
    expected = f64.rotated(x, layer, gathered(layer, of, "real"), by, 1, of)
    found = f64.converted(layer, of, of.whole, PLAIN)
    assert distance(f64.latent(x, found, by, of), expected) < EXACT


@geometries
def test_t3_absorbed_equals_materialised(of):
    layer = f64.converted(f64.random_layer(of), of, of.whole // 4, PLAIN)
    x, by = inputs(of)[:TOKENS], f64.angles(of)
    assert distance(f64.absorbed(x, layer, by, of), f64.latent(x, layer, by, of)) < EXACT


@geometries
def test_t4_full_rank_is_exact_where_nothing_turns(of):
    layer, x, still = f64.random_layer(of), inputs(of)[:TOKENS], f64.angles(of, still=True)
    found = f64.converted(layer, of, of.whole, Method(rotation="complex", weighting="output"))
    assert distance(f64.latent(x, found, still, of), f64.grouped(x, layer, still, of)) < EXACT


@geometries
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_t5_keys_of_one_direction_need_no_more_rank_than_the_values(of, kind):
    """The values' rank is that of the input. Heads out of phase take a complex rotation."""
    layer = f64.one_direction(f64.random_layer(of), of, out_of_phase=kind == "complex")
    x, by = inputs(of)[:TOKENS], f64.angles(of)
    shared = f64.shared(layer, of, of.width, Method(rotation=kind))
    assert shared.ratio == 1.0 and shared.rope_energy == pytest.approx(1)
    found = latent_layer.latent_layer(layer, shared)
    assert distance(f64.latent(x, found, by, of), f64.grouped(x, layer, by, of)) < EXACT


def test_t5_needs_the_complex_rotation_where_heads_are_out_of_phase():
    layer = f64.one_direction(f64.random_layer(), SMALL, out_of_phase=True)
    x, by = inputs()[:TOKENS], f64.angles()
    found = f64.converted(layer, SMALL, SMALL.width, Method(rotation="real"))
    assert distance(f64.latent(x, found, by, SMALL), f64.grouped(x, layer, by, SMALL)) > 0.01


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.rotation}-{m.weighting}")
def test_t6_scale_and_layout_are_right_for_every_method(method):
    """The factor of the queries, the pairs of rope, the inverse of each weighting."""
    layer, x, by = f64.random_layer(), inputs()[:TOKENS], f64.angles()
    expected = f64.rotated(x, layer, gathered(layer, SMALL, method.rotation), by, 1, SMALL)
    found = f64.converted(layer, SMALL, SMALL.whole, method)
    # A weighting divides by what it multiplied with: weights of 1 to 1,000 cost three digits.
    allowed = 1e-9 if method.weighting == "output" else EXACT
    assert distance(f64.latent(x, found, by, SMALL), expected) < allowed


@geometries
def test_t7_the_norm_is_linear_where_the_rms_is_constant(of):
    """Orthogonal heads of inputs that all have one length; the ridge must not matter."""
    rng, width = np.random.default_rng(3), of.head_dim
    x = rng.standard_normal((2000, width)) * np.arange(1, width + 1) ** 0.5
    x *= 4 / np.linalg.norm(x, axis=1, keepdims=True)
    x = np.hstack([x, np.ones((len(x), 1))])
    kernel = np.hstack([3 * f64.orthogonal(rng, width), 0.2 * f64.orthogonal(rng, width)])
    scale = rng.uniform(0.5, 2, width)
    q = f64.normed(x[:, :-1], kernel, scale)
    for ridge in (1e-6, 1e-3, 1.0):
        fitted = affine.fit(kernel, scale, x.T @ x, x.T @ q, ridge)
        assert distance(x @ fitted, q) < EXACT


def test_without_the_guard_noise_would_take_the_values_place(monkeypatch):
    """The second half of T5: keys that are all in the roped head must not be balanced."""
    monkeypatch.setattr(weighting, "NEGLIGIBLE", 0.0)
    layer, x = f64.one_direction(f64.random_layer(), SMALL), inputs()[:TOKENS]
    assert f64.shared(layer, SMALL, SMALL.width, PLAIN).ratio < 1e-6
    found = f64.converted(layer, SMALL, SMALL.width, PLAIN)
    by = f64.angles()
    assert distance(f64.latent(x, found, by, SMALL), f64.grouped(x, layer, by, SMALL)) > 1e-3


def test_a_rank_wider_than_keys_and_values_is_refused():
    with pytest.raises(UserError, match="latent of 113 numbers is wider than the 112"):
        f64.converted(f64.random_layer(), SMALL, 113, PLAIN)
