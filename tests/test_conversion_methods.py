"""What each option of the conversion improves, in float64. Exact cases: test_conversion.py."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from ivx.conversion import compression, latent_layer, qk_norm, rotation, shared_latent
from ivx.conversion.method import Method
from ivx.errors import UserError
from tests import attention_float64 as f64
from tests.attention_float64 import SMALL, TOKENS, distance, inputs

# ------------------------------------------------------------------- QK-norm


def norm_case() -> tuple[np.ndarray, ...]:
    """Inputs, kernel, scale and the normed outputs."""
    rng = np.random.default_rng(4)
    x, scale = inputs(), rng.uniform(0.5, 2, 16)
    kernel = rng.standard_normal((SMALL.width, 32))
    return x, kernel, scale, f64.normed(x[:, :-1], kernel, scale)


def test_affine_fit_lies_between_fold_and_least_squares():
    x, kernel, scale, q = norm_case()
    a, b, energy = x.T @ x, x.T @ q, np.vdot(q, q)

    def error(ridge: float) -> float:
        fitted = qk_norm.fit(kernel, scale, a, b, ridge)
        error = qk_norm.relative_error(fitted, a, b, energy)
        assert error == pytest.approx(distance(x @ fitted, q), rel=1e-6)
        return error

    least_squares = np.linalg.lstsq(x, q)[0]
    folded = distance(x @ qk_norm.fold(kernel, scale, a, b), q)
    errors = [error(ridge) for ridge in (0.0, 1e-3, 1e3, 1e9)]
    assert errors == sorted(errors)
    assert errors[0] == pytest.approx(distance(x @ least_squares, q))
    assert errors[-1] == pytest.approx(folded) and errors[0] < 0.9 * folded


def test_fold_is_the_best_constant_per_head():
    x, kernel, scale, q = norm_case()
    folded = qk_norm.fold(kernel, scale, x.T @ x, x.T @ q)
    assert not folded[-1].any()
    for factor in (0.99, 1.01):
        changed = folded * np.repeat([factor, 1.0], 16)
        assert distance(x @ changed, q) > distance(x @ folded, q)
    # Without the division, heads have the wrong length altogether.
    dropped = qk_norm.drop(kernel, scale)
    assert distance(x @ dropped, q) > 2 * distance(x @ folded, q)


def test_singular_fit_is_rejected():
    x = np.zeros((3, 5))
    with pytest.raises(UserError, match="the QK-norm fit is singular"):
        qk_norm.fit(np.ones((4, 2)), np.ones(2), x.T @ x, np.zeros((5, 2)), 0.0)


# ------------------------------------------------------------------- rotation


def energies(k: np.ndarray) -> np.ndarray:
    """Energy of each key head."""
    return np.square(k).reshape(len(k), SMALL.kv_heads, -1).sum((0, 2))


@pytest.mark.parametrize("seed", range(5))
def test_complex_gathers_at_least_as_much_as_real_and_real_as_any_head(seed: int):
    keys = inputs() @ f64.random_layer(seed=seed).k
    of_real, of_complex = (
        energies(keys @ rotation.gather_positions(keys.T @ keys, SMALL.kv_heads, kind).to.T)
        for kind in ("real", "complex")
    )
    assert (np.diff(of_real) < 0).all() and (np.diff(of_complex) < 0).all()
    assert of_complex[0] > of_real[0] > energies(keys).max()


def test_heads_in_phase_are_gathered_alike():
    layer = f64.one_direction(f64.random_layer(), SMALL)
    keys = inputs() @ layer.k
    for kind in ("real", "complex"):
        basis = rotation.gather_positions(keys.T @ keys, SMALL.kv_heads, kind)
        virtual = energies(keys @ basis.to.T)
        assert virtual[0] == pytest.approx(virtual.sum())


def test_weighted_rotation_favours_heads_that_queries_use():
    """No query uses two of the four key heads: the other two are gathered better."""
    keys = inputs() @ f64.random_layer().k
    query_energy = np.ones((SMALL.kv_heads, SMALL.head_dim // 2))
    query_energy[2:] = 0
    lost = {}
    for kind in ("complex", "weighted"):
        basis = rotation.gather_positions(keys.T @ keys, SMALL.kv_heads, kind, query_energy)
        roped = keys @ basis.to[: SMALL.head_dim].T
        reconstructed = roped @ basis.back[:, : SMALL.head_dim].T
        lost[kind] = energies(keys - reconstructed)[:2].sum()
    assert lost["weighted"] < 0.8 * lost["complex"]


# ------------------------------------------------------------------- compression


def test_higher_rank_retains_more_energy():
    layer = f64.random_layer()
    retained = [f64.shared(layer, SMALL, r, Method()).latent_energy for r in (8, 24, 40, 112)]
    assert retained == sorted(retained) and 0 < retained[0] < retained[1] < 1
    assert retained[-1] == pytest.approx(1)


@pytest.mark.parametrize("weighting", ["balanced", "output"])
def test_balance_scales_the_ratio(weighting: str):
    low, high = (
        f64.shared(
            f64.random_layer(), SMALL, 24, Method(weighting=weighting, balance=balance)
        ).ratio
        for balance in (1.0, 4.0)
    )
    assert high == pytest.approx(4 * low) and low != 1.0


def test_plain_weighting_has_ratio_one():
    assert f64.shared(f64.random_layer(), SMALL, 24, Method(weighting="plain")).ratio == 1.0


def test_output_weighting_retains_what_the_output_depends_on():
    """The output projection uses the values of the first key-value head only, and so do queries
    its keys. A narrow latent retains what matters; a balanced one retains what is large."""
    layer, x, angles = f64.random_layer(), inputs()[:TOKENS], f64.angles()
    first = SMALL.heads // SMALL.kv_heads * SMALL.head_dim
    o, q = layer.o.copy(), layer.q.copy()
    o[first:], q[:, first:] = 0, 0
    layer = layer._replace(o=o, q=q)
    expected, errors = f64.grouped(x, layer, angles, SMALL).reshape(TOKENS, -1) @ o, {}
    for weighting in ("balanced", "output"):
        method = Method(rotation="weighted", weighting=weighting)
        converted = f64.converted(layer, SMALL, 24, method)
        actual = f64.latent(x, converted, angles, SMALL).reshape(TOKENS, -1) @ o
        errors[weighting] = distance(actual, expected)
    assert errors["output"] < 0.5 * errors["balanced"]


def test_constant_rotation_equals_rotating_all_keys_by_it():
    """With the rope of all tokens at one angle t, a query at 0: exact for keys of any rank."""
    layer, x = f64.random_layer(), inputs()[:TOKENS]
    rng = np.random.default_rng(7)
    angle_j = rng.uniform(-2, 2, SMALL.head_dim // 2)
    layer = layer._replace(mean_rotation=np.tile(np.exp(1j * angle_j), (SMALL.heads, 1)))
    still = np.zeros((TOKENS, SMALL.head_dim // 2))
    # Queries have separate parts for the rope key and the others; the first part is rotated.
    shared = f64.shared(layer, SMALL, SMALL.whole, Method(rotation="real"))
    q = f64.heads(x, layer.q, SMALL)
    rotated = np.einsum("tnh,nhk->tnk", q, shared.query[..., : SMALL.head_dim]) / np.sqrt(2)
    expected = f64.turn(q, np.tile(-angle_j, (TOKENS, 1)))
    np.testing.assert_allclose(rotated, expected, atol=1e-12)
    assert not np.allclose(f64.turn(q, still), rotated)


# ------------------------------------------------------------------- ranks


def layer_spectra(count: int = 4) -> list[np.ndarray]:
    """Layers whose energy decays at different rates."""
    return [np.exp(-np.arange(112) / scale) for scale in (2.0, 8.0, 20.0, 60.0)][:count]


def lost_energy(spectra: list[np.ndarray], ranks: Sequence[int]) -> float:
    """Shares of energy beyond the ranks, summed over layers."""
    return sum(s[r:].sum() / s.sum() for s, r in zip(spectra, ranks, strict=True))


def test_rank_allocation_is_optimal_under_the_budget():
    spectra = layer_spectra()
    ranks = compression.allocate_ranks(spectra, 24, 64)
    assert sum(ranks) == 4 * 24 and list(ranks) == sorted(ranks) and len(set(ranks)) == 4
    assert max(ranks) <= 64 and min(ranks) >= 1
    assert lost_energy(spectra, ranks) < lost_energy(spectra, [24] * 4)
    # Moving a dimension from one layer to another always costs energy.
    for giver, taker in itertools.permutations(range(4), 2):
        other = list(ranks)
        other[giver] -= 1
        other[taker] += 1
        if other[giver] and other[taker] <= 64:
            assert lost_energy(spectra, other) >= lost_energy(spectra, ranks)


def test_equal_layers_get_equal_ranks_and_every_layer_gets_one():
    assert compression.allocate_ranks([layer_spectra()[1]] * 3, 24, 64) == (24, 24, 24)
    steep, flat = np.array([1.0, 0, 0, 0]), np.ones(4)
    assert compression.allocate_ranks([steep * 1e-9, flat], 2, 4) == (1, 3)


@pytest.mark.parametrize("mean", [0, 65])
def test_rank_budget_beyond_the_largest_rank_is_rejected(mean: int):
    with pytest.raises(UserError, match=f"mean_rank = {mean} must be between 1 and .* = 64"):
        compression.allocate_ranks(layer_spectra(), mean, 64)


def test_padded_latent_computes_the_same():
    layer, x, angles = f64.random_layer(), inputs()[:TOKENS], f64.angles()
    narrow = f64.shared(layer, SMALL, 24, Method())
    padded = shared_latent.pad(narrow, 40)
    assert padded.up.shape[0] == 40 and not padded.up[24:].any() and padded.rank == 24
    outputs = [
        f64.latent(x, latent_layer.latent_layer(layer, shared), angles, SMALL)
        for shared in (narrow, padded)
    ]
    assert distance(outputs[1], outputs[0]) < 1e-13
