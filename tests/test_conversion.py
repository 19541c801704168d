"""The algebra of the conversion in float64, against both attentions written out here.

Whole models are in test_convert.py.
"""

import dataclasses

import numpy as np
import pytest

from ivx.conversion import compression, latent_layer, qk_norm, rotation
from ivx.errors import UserError
from ivx.models.rope import text_rope
from ivx.models.spec import TextSpec

EXACT = 1e-12
# Four key-value heads of 16, two query heads on each; keys without rope and values make up 112.
LAYER = TextSpec("gqa", 1, 40, 8, 16, 4, 112, 0, 0, 5e6, (4, 2, 2))
TOKENS = 48


# ------------------------------------------------------------------- one layer, float64, in numpy


def random_layer(seed: int = 0) -> latent_layer.AffineLayer:
    """Affine projections of unit variance; keys of different heads have nothing in common."""
    rng = np.random.default_rng(seed)
    shape = LAYER.width + 1, LAYER.head_dim
    q, k, v = (
        rng.standard_normal((shape[0], heads * shape[1])) / np.sqrt(shape[0])
        for heads in (LAYER.heads, LAYER.kv_heads, LAYER.kv_heads)
    )
    v[-1] = 0
    return latent_layer.AffineLayer(3 * q, 3 * k, v)


def one_direction(layer: latent_layer.AffineLayer) -> latent_layer.AffineLayer:
    """The same with keys that differ between heads only by a factor for each rope pair."""
    rng = np.random.default_rng(1)
    half = LAYER.head_dim // 2
    factor_kj = rng.standard_normal((LAYER.kv_heads, half))
    first_ej2 = layer.k[:, : LAYER.head_dim].reshape(-1, 2, half)
    k = np.einsum("kj,eij->ekij", factor_kj, first_ej2).reshape(len(layer.k), -1)
    return layer._replace(k=k)


def inputs(seed: int = 2, tokens: int = 1000) -> np.ndarray:
    """[x; 1], with a mean and directions of unequal strength, as hidden states have."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((tokens, LAYER.width)) * np.arange(1, LAYER.width + 1) ** -0.5 + 0.3
    return np.hstack([x, np.ones((tokens, 1))])


def turns(still: bool = False) -> np.ndarray:
    """Angles [T, H / 2] of text, a picture's grid, and text again, as `text_rope` has them."""
    positions = np.tile(np.arange(TOKENS), (3, 1))
    positions[:, 8:32] = 8 + np.stack([np.zeros(24, int), np.arange(24) // 6, np.arange(24) % 6])
    frequency = np.arange(LAYER.head_dim // 2)
    axis = np.where(
        (frequency % 3 == 1) & (frequency < 6),
        1,
        np.where((frequency % 3 == 2) & (frequency < 6), 2, 0),
    )
    angles = positions[axis].T * LAYER.rope_theta ** (-2 * frequency / LAYER.head_dim)
    expected = text_rope(positions[None], LAYER.head_dim, LAYER.rope_theta, LAYER.mrope_sections)
    np.testing.assert_allclose(np.sin(angles), expected.sin[0], atol=1e-4)
    return 0 * angles if still else angles


def turn(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Rope over the last axis of [T, ..., H], pairs (j, j + H / 2)."""
    angles = angles.reshape(len(x), *[1] * (x.ndim - 2), -1)
    a, b = np.split(x, 2, -1)
    return np.concatenate(
        [a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], -1
    )


def turn_pairs(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Rope with pairs (2j, 2j + 1)."""
    return turn(np.concatenate([x[..., 0::2], x[..., 1::2]], -1), angles)


def attend(scores_nts: np.ndarray, v_snh: np.ndarray) -> np.ndarray:
    """Causal softmax over keys: [T, N, H]."""
    scores = np.where(np.tril(np.ones(scores_nts.shape[1:], bool)), scores_nts, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("nts,snh->tnh", weights / weights.sum(-1, keepdims=True), v_snh)


def heads(x: np.ndarray, map_eo: np.ndarray) -> np.ndarray:
    """Projected and split, [T, heads, H]; key-value heads once for each query head they serve."""
    split = (x @ map_eo).reshape(len(x), -1, LAYER.head_dim)
    return np.repeat(split, LAYER.heads // split.shape[1], 1)


def grouped(x: np.ndarray, layer: latent_layer.AffineLayer, angles: np.ndarray) -> np.ndarray:
    """Grouped attention without QK-norm."""
    q, k, v = (heads(x, map_eo) for map_eo in layer)
    scores = np.einsum("tnh,snh->nts", turn(q, angles), turn(k, angles))
    return attend(scores / np.sqrt(LAYER.head_dim), v)


def rotated(
    x: np.ndarray, layer: latent_layer.AffineLayer, rotation_oo: np.ndarray, angles, roped: int
) -> np.ndarray:
    """Grouped attention on virtual key heads, of which the first `roped` have rope."""
    group, width = LAYER.heads // LAYER.kv_heads, LAYER.head_dim
    k_sch = (x @ layer.k @ rotation_oo.T).reshape(len(x), -1, width)
    up_nho = np.repeat(rotation_oo.T.reshape(-1, width, len(rotation_oo)), group, 0)
    q_tnch = np.einsum("tnh,nho->tno", heads(x, layer.q), up_nho)
    q_tnch = q_tnch.reshape(*q_tnch.shape[:2], -1, width)
    scores = np.einsum("tnch,sch->nts", q_tnch[:, :, roped:], k_sch[:, roped:])
    scores += np.einsum(
        "tnch,sch->nts",
        turn_pairs(q_tnch[:, :, :roped], angles),
        turn_pairs(k_sch[:, :roped], angles),
    )
    return attend(scores / np.sqrt(width), heads(x, layer.v))


def latent(x: np.ndarray, layer: latent_layer.LatentLayer, angles: np.ndarray) -> np.ndarray:
    """Latent attention as `ivx.models.latent_attention` has it."""
    width, rank = LAYER.head_dim, len(layer.kv_b)
    q_tnk = np.einsum("te,enk->tnk", x, layer.q)
    kv_a = x @ layer.kv_a
    kv_snk = np.einsum("sr,rnk->snk", kv_a[:, :rank], layer.kv_b)
    scores = np.einsum("tnh,snh->nts", q_tnk[..., :width], kv_snk[..., :width])
    scores += np.einsum(
        "tnp,sp->nts",
        turn_pairs(q_tnk[..., width:], angles),
        turn_pairs(kv_a[:, rank:], angles),
    )
    return attend(scores / np.sqrt(2 * width), kv_snk[..., width:])


def absorbed(x: np.ndarray, layer: latent_layer.LatentLayer, angles: np.ndarray) -> np.ndarray:
    """The same without keys or values: only latent and rope key are looked at, as in decoding."""
    width, rank = LAYER.head_dim, len(layer.kv_b)
    q_tnk = np.einsum("te,enk->tnk", x, layer.q)
    cache = x @ layer.kv_a
    cache[:, rank:] = turn_pairs(cache[:, rank:], angles)
    q_latent = np.einsum("tnh,rnh->tnr", q_tnk[..., :width], layer.kv_b[..., :width])
    q = np.concatenate([q_latent, turn_pairs(q_tnk[..., width:], angles)], -1)
    scores = np.einsum("tnc,sc->nts", q, cache) / np.sqrt(2 * width)
    context = attend(scores, np.repeat(cache[:, None, :rank], LAYER.heads, 1))
    return np.einsum("tnr,rnh->tnh", context, layer.kv_b[..., width:])


def converted(layer: latent_layer.AffineLayer, rank: int = 112) -> latent_layer.LatentLayer:
    x = inputs()
    spec = dataclasses.replace(LAYER, kv_rank=rank)
    return latent_layer.latent_layer(spec, layer, x.T @ x, balance=1.0)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("kind", rotation.KINDS)
def test_the_rotation_leaves_attention_as_it_was_while_all_heads_keep_rope(kind):
    layer, x = random_layer(), inputs()
    rotation_oo = rotation.gather((x @ layer.k).T @ (x @ layer.k), LAYER.kv_heads, kind)
    np.testing.assert_allclose(rotation_oo @ rotation_oo.T, np.eye(len(rotation_oo)), atol=EXACT)
    x = x[:TOKENS]
    all_roped = rotated(x, layer, rotation_oo, turns(), roped=LAYER.kv_heads)
    assert distance(all_roped, grouped(x, layer, turns())) < EXACT
    # And it does something: without rope on the other heads the same attention is far off.
    assert distance(rotated(x, layer, rotation_oo, turns(), 1), all_roped) > 0.05


def test_the_rotation_puts_more_into_head_0_than_any_head_had():
    layer, x = random_layer(), inputs()
    keys = x @ layer.k
    rotation_oo = rotation.gather(keys.T @ keys, LAYER.kv_heads)

    def energies(k: np.ndarray) -> np.ndarray:
        return np.square(k).reshape(len(k), LAYER.kv_heads, -1).sum((0, 2))

    after = energies(keys @ rotation_oo.T)
    assert after[0] > energies(keys).max()
    # A unitary map has more freedom than an orthogonal one.
    freer_oo = rotation.gather(keys.T @ keys, LAYER.kv_heads, "complex")
    assert energies(keys @ freer_oo.T)[0] > after[0]
    assert (np.diff(after) < 0).all()


def test_full_rank_equals_rope_on_one_head():
    layer, x = random_layer(), inputs()[:TOKENS]
    k = inputs() @ layer.k
    expected = rotated(x, layer, rotation.gather(k.T @ k, LAYER.kv_heads), turns(), roped=1)
    assert distance(latent(x, converted(layer), turns()), expected) < EXACT


def test_absorbed_equals_materialised():
    layer, x = converted(random_layer(), rank=24), inputs()[:TOKENS]
    assert distance(absorbed(x, layer, turns()), latent(x, layer, turns())) < EXACT


def test_full_rank_is_exact_where_nothing_turns():
    layer, x, still = random_layer(), inputs()[:TOKENS], turns(still=True)
    assert distance(latent(x, converted(layer), still), grouped(x, layer, still)) < EXACT


def test_keys_of_one_direction_need_no_more_rank_than_the_values():
    layer, x = one_direction(random_layer()), inputs()[:TOKENS]
    found = converted(layer, rank=LAYER.width)  # the values' rank, which the input bounds
    assert found.balance_ratio == 1.0 and found.rope_energy == pytest.approx(1)
    assert distance(latent(x, found, turns()), grouped(x, layer, turns())) < EXACT


def test_without_the_guard_noise_would_take_the_values_place(monkeypatch):
    monkeypatch.setattr(compression, "NEGLIGIBLE", 0.0)
    layer, x = one_direction(random_layer()), inputs()[:TOKENS]
    found = converted(layer, rank=LAYER.width)
    assert found.balance_ratio < 1e-6
    assert distance(latent(x, found, turns()), grouped(x, layer, turns())) > 1e-3


def test_more_rank_keeps_more():
    kept = [converted(random_layer(), rank).latent_energy for rank in (8, 24, 40, 112)]
    assert kept == sorted(kept) and 0 < kept[0] < kept[1] < 1
    assert kept[-1] == pytest.approx(1)


def test_the_balance_moves_the_ratio():
    x = inputs()
    affine = random_layer()
    low, high = (
        latent_layer.latent_layer(LAYER, affine, x.T @ x, balance).balance_ratio
        for balance in (1.0, 4.0)
    )
    assert high == pytest.approx(4 * low) and low != 1.0


def test_a_rank_wider_than_keys_and_values_is_refused():
    with pytest.raises(UserError, match="latent of 113 numbers is wider than the 112"):
        converted(random_layer(), rank=113)


# ------------------------------------------------------------------- QK-norm


def normed(x: np.ndarray, kernel: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """RMS norm over heads of scale's width, flat again."""
    split = (x @ kernel).reshape(len(x), -1, len(scale))
    rms = np.sqrt(np.square(split).mean(-1, keepdims=True))
    return (split / rms * scale).reshape(len(x), -1)


def orthogonal(rng: np.random.Generator, width: int) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((width, width)))[0]


def test_the_fit_is_exact_where_the_rms_is_constant():
    """Orthogonal heads of inputs that all have one length; the ridge must not matter."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((500, 16)) * np.arange(1, 17)
    x *= 4 / np.linalg.norm(x, axis=1, keepdims=True)
    x = np.hstack([x, np.ones((500, 1))])
    kernel = np.hstack([3 * orthogonal(rng, 16), 0.2 * orthogonal(rng, 16)])
    scale = rng.uniform(0.5, 2, 16)
    q = normed(x[:, :-1], kernel, scale)
    for ridge in (0.0, 1e-3, 1.0):
        fitted = qk_norm.fit(kernel, scale, x.T @ x, x.T @ q, ridge)
        assert distance(x @ fitted, q) < 1e-10
        assert qk_norm.relative_error(fitted, x.T @ x, x.T @ q, np.vdot(q, q)) < 1e-6


def test_the_fit_is_between_the_fold_and_least_squares():
    rng = np.random.default_rng(4)
    x, scale = inputs(), rng.uniform(0.5, 2, 16)
    kernel = rng.standard_normal((LAYER.width, 32))
    q = normed(x[:, :-1], kernel, scale)
    a, b, energy = x.T @ x, x.T @ q, np.vdot(q, q)

    def error(ridge: float) -> float:
        fitted = qk_norm.fit(kernel, scale, a, b, ridge)
        told = qk_norm.relative_error(fitted, a, b, energy)
        assert told == pytest.approx(distance(x @ fitted, q), rel=1e-6)
        return told

    exact = np.linalg.lstsq(x, q)[0]
    folded = distance(x @ qk_norm.fold(kernel, scale, a, b), q)
    errors = [error(ridge) for ridge in (0.0, 1e-3, 1e3, 1e9)]
    assert errors == sorted(errors)
    assert errors[0] == pytest.approx(distance(x @ exact, q))
    assert errors[-1] == pytest.approx(folded) and errors[0] < 0.9 * folded


def test_an_open_fit_is_refused():
    x = np.zeros((3, 5))
    with pytest.raises(UserError, match="leave the QK-norm fit open"):
        qk_norm.fit(np.ones((4, 2)), np.ones(2), x.T @ x, np.zeros((5, 2)), 0.0)
