"""What each choice of the conversion is better at, in float64; the exact cases are next door."""

import itertools

import numpy as np
import pytest

from ivx.conversion import affine, fold, latent_layer, ranks, rotation, shared_latent
from ivx.conversion.method import Method
from ivx.errors import UserError
from tests import attention_float64 as f64
from tests.attention_float64 import SMALL, TOKENS, distance, inputs

# ------------------------------------------------------------------- QK-norm


def norm_case() -> tuple[np.ndarray, ...]:
    """Inputs, kernel, scale and what the norm makes of them."""
    rng = np.random.default_rng(4)
    x, scale = inputs(), rng.uniform(0.5, 2, 16)
    kernel = rng.standard_normal((SMALL.width, 32))
    return x, kernel, scale, f64.normed(x[:, :-1], kernel, scale)


def test_the_fit_is_between_the_fold_and_least_squares():
    x, kernel, scale, q = norm_case()
    a, b, energy = x.T @ x, x.T @ q, np.vdot(q, q)

    def error(ridge: float) -> float:
        fitted = affine.fit(kernel, scale, a, b, ridge)
        told = affine.relative_error(fitted, a, b, energy)
        assert told == pytest.approx(distance(x @ fitted, q), rel=1e-6)
        return told

    exact = np.linalg.lstsq(x, q)[0]
    folded = distance(x @ fold.fold(kernel, scale, a, b), q)
    errors = [error(ridge) for ridge in (0.0, 1e-3, 1e3, 1e9)]
    assert errors == sorted(errors)
    assert errors[0] == pytest.approx(distance(x @ exact, q))
    assert errors[-1] == pytest.approx(folded) and errors[0] < 0.9 * folded


def test_the_fold_is_the_best_number_for_each_head():
    x, kernel, scale, q = norm_case()
    found = fold.fold(kernel, scale, x.T @ x, x.T @ q)
    assert not found[-1].any()
    for other in (0.99, 1.01):
        changed = found * np.repeat([other, 1.0], 16)
        assert distance(x @ changed, q) > distance(x @ found, q)
    # Forgetting the division leaves heads of another length altogether.
    assert distance(x @ fold.drop(kernel, scale), q) > 2 * distance(x @ found, q)


def test_an_open_fit_is_refused():
    x = np.zeros((3, 5))
    with pytest.raises(UserError, match="leave the QK-norm fit open"):
        affine.fit(np.ones((4, 2)), np.ones(2), x.T @ x, np.zeros((5, 2)), 0.0)


# ------------------------------------------------------------------- rotation


def energies(k: np.ndarray) -> np.ndarray:
    return np.square(k).reshape(len(k), SMALL.kv_heads, -1).sum((0, 2))


@pytest.mark.parametrize("seed", range(5))
def test_complex_gathers_at_least_as_much_as_real_and_real_as_any_head_had(seed):
    keys = inputs() @ f64.random_layer(seed=seed).k
    real, freer = (
        energies(keys @ rotation.gather(keys.T @ keys, SMALL.kv_heads, kind).to.T)
        for kind in ("real", "complex")
    )
    assert (np.diff(real) < 0).all() and (np.diff(freer) < 0).all()
    assert freer[0] > real[0] > energies(keys).max()


def test_heads_in_phase_are_gathered_alike():
    layer = f64.one_direction(f64.random_layer(), SMALL)
    keys = inputs() @ layer.k
    for kind in ("real", "complex"):
        found = energies(keys @ rotation.gather(keys.T @ keys, SMALL.kv_heads, kind).to.T)
        assert found[0] == pytest.approx(found.sum())


def test_a_weighted_rotation_serves_the_heads_that_are_asked():
    """Two of four key heads are asked nothing: what is gathered is of the other two."""
    keys = inputs() @ f64.random_layer().k
    asked = np.ones((SMALL.kv_heads, SMALL.head_dim // 2))
    asked[2:] = 0
    lost = {}
    for kind in ("complex", "weighted"):
        change = rotation.gather(keys.T @ keys, SMALL.kv_heads, kind, asked)
        roped = keys @ change.to[: SMALL.head_dim].T
        brought_back = roped @ change.back[:, : SMALL.head_dim].T
        lost[kind] = energies(keys - brought_back)[:2].sum()
    assert lost["weighted"] < 0.8 * lost["complex"]


# ------------------------------------------------------------------- compression


def test_more_rank_keeps_more():
    layer = f64.random_layer()
    kept = [f64.shared(layer, SMALL, r, Method()).latent_energy for r in (8, 24, 40, 112)]
    assert kept == sorted(kept) and 0 < kept[0] < kept[1] < 1
    assert kept[-1] == pytest.approx(1)


@pytest.mark.parametrize("near", ["balanced", "output"])
def test_the_balance_moves_the_ratio(near):
    low, high = (
        f64.shared(f64.random_layer(), SMALL, 24, Method(weighting=near, balance=balance)).ratio
        for balance in (1.0, 4.0)
    )
    assert high == pytest.approx(4 * low) and low != 1.0


def test_plain_weighs_nothing():
    assert f64.shared(f64.random_layer(), SMALL, 24, Method(weighting="plain")).ratio == 1.0


def test_output_weighting_keeps_what_is_read():
    """An output projection that reads only the first key-value head's values, and queries that ask
    only for its keys: a narrow latent keeps what matters, a balanced one keeps what is big."""
    layer, x, by = f64.random_layer(), inputs()[:TOKENS], f64.angles()
    first = SMALL.heads // SMALL.kv_heads * SMALL.head_dim
    o, q = layer.o.copy(), layer.q.copy()
    o[first:], q[:, first:] = 0, 0
    layer = layer._replace(o=o, q=q)
    wanted, errors = f64.grouped(x, layer, by, SMALL).reshape(TOKENS, -1) @ o, {}
    for near in ("balanced", "output"):
        found = f64.converted(layer, SMALL, 24, Method(rotation="weighted", weighting=near))
        got = f64.latent(x, found, by, SMALL).reshape(TOKENS, -1) @ o
        errors[near] = distance(got, wanted)
    assert errors["output"] < 0.5 * errors["balanced"]


def test_a_constant_turn_is_the_same_as_turning_all_keys_by_it():
    """With the rope of all tokens at one angle t, a query at 0: exact for keys of any rank."""
    layer, x = f64.random_layer(), inputs()[:TOKENS]
    rng = np.random.default_rng(7)
    by_j = rng.uniform(-2, 2, SMALL.head_dim // 2)
    layer = layer._replace(turn=np.tile(np.exp(1j * by_j), (SMALL.heads, 1)))
    still = np.zeros((TOKENS, SMALL.head_dim // 2))
    # Rope key and the others are asked apart: without the roped head only the turned ones remain.
    shared = f64.shared(layer, SMALL, SMALL.whole, Method(rotation="real"))
    q = f64.heads(x, layer.q, SMALL)
    asked = np.einsum("tnh,nhk->tnk", q, shared.ask[..., : SMALL.head_dim]) / np.sqrt(2)
    np.testing.assert_allclose(asked, f64.turn(q, np.tile(-by_j, (TOKENS, 1))), atol=1e-12)
    assert not np.allclose(f64.turn(q, still), asked)


# ------------------------------------------------------------------- ranks


def spectra(count: int = 4) -> list[np.ndarray]:
    """Layers whose energy falls off at different rates."""
    return [np.exp(-np.arange(112) / scale) for scale in (2.0, 8.0, 20.0, 60.0)][:count]


def lost(found: list[np.ndarray], chosen) -> float:
    """Shares of energy beyond the ranks, in sum."""
    return sum(s[r:].sum() / s.sum() for s, r in zip(found, chosen, strict=True))


def test_ranks_spend_the_budget_where_it_is_worth_most():
    found = spectra()
    chosen = ranks.allot(found, 24, 64)
    assert sum(chosen) == 4 * 24 and list(chosen) == sorted(chosen) and len(set(chosen)) == 4
    assert max(chosen) <= 64 and min(chosen) >= 1
    assert lost(found, chosen) < lost(found, [24] * 4)
    # No number can be taken from one layer and given to another without a loss.
    for giver, taker in itertools.permutations(range(4), 2):
        other = list(chosen)
        other[giver] -= 1
        other[taker] += 1
        if other[giver] and other[taker] <= 64:
            assert lost(found, other) >= lost(found, chosen)


def test_alike_layers_get_alike_ranks_and_none_gets_nothing():
    assert ranks.allot([spectra()[1]] * 3, 24, 64) == (24, 24, 24)
    steep, flat = np.array([1.0, 0, 0, 0]), np.ones(4)
    assert ranks.allot([steep * 1e-9, flat], 2, 4) == (1, 3)


@pytest.mark.parametrize("mean", [0, 65])
def test_a_budget_beyond_the_widest_is_refused(mean):
    with pytest.raises(UserError, match=f"mean_rank = {mean} must be between 1 and .* = 64"):
        ranks.allot(spectra(), mean, 64)


def test_a_narrow_latent_among_wide_ones_computes_the_same():
    layer, x, by = f64.random_layer(), inputs()[:TOKENS], f64.angles()
    narrow = f64.shared(layer, SMALL, 24, Method())
    wide = shared_latent.widen(narrow, 40)
    assert wide.up.shape[0] == 40 and not wide.up[24:].any() and wide.rank == 24
    answers = [
        f64.latent(x, latent_layer.latent_layer(layer, one), by, SMALL) for one in (narrow, wide)
    ]
    assert distance(answers[1], answers[0]) < 1e-13
