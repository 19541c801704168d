"""Reference grouped and latent attention in numpy float64, and random layers to test them on.

Shares no code with ivx, so the conversion is tested against an independent implementation.
"""

import dataclasses

import numpy as np

from ivx.conversion import latent_layer, shared_latent
from ivx.conversion.method import Method
from ivx.models.rope import text_rope

TOKENS = 48


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Sizes of a layer's heads and of its input."""

    width: int
    heads: int
    kv_heads: int
    head_dim: int
    sections: tuple[int, int, int]
    theta: float = 5e6

    @property
    def whole(self) -> int:
        """The rank at which the conversion is lossless: keys without rope, and values."""
        return (2 * self.kv_heads - 1) * self.head_dim


SMALL = Geometry(40, 8, 4, 16, (4, 2, 2))
# The heads of Qwen3-VL-8B on a narrower input: 8 key-value heads of 128, 24 / 20 / 20 frequencies.
PUBLISHED = Geometry(320, 16, 8, 128, (24, 20, 20))


# ------------------------------------------------------------------- inputs


def random_layer(of: Geometry = SMALL, seed: int = 0) -> latent_layer.AffineLayer:
    """Affine projections of unit variance; the keys of different heads are independent."""
    rng = np.random.default_rng(seed)
    q, k, v = (
        rng.standard_normal((of.width + 1, heads * of.head_dim)) / np.sqrt(of.width + 1)
        for heads in (of.heads, of.kv_heads, of.kv_heads)
    )
    v[-1] = 0
    o = rng.standard_normal((of.heads * of.head_dim, of.width))
    turn = np.ones((of.heads, of.head_dim // 2), complex)
    return latent_layer.AffineLayer(3 * q, 3 * k, v, o, turn)


def one_direction(
    layer: latent_layer.AffineLayer, of: Geometry, out_of_phase: bool = False
) -> latent_layer.AffineLayer:
    """The layer with keys that differ between heads only by a factor per rope pair.

    The factors are real, or of any phase with `out_of_phase`.
    """
    rng = np.random.default_rng(1)
    half = of.head_dim // 2
    factor_kj = rng.standard_normal((of.kv_heads, half)) + 0j
    if out_of_phase:
        factor_kj *= np.exp(2j * np.pi * rng.random(factor_kj.shape))
    first_ej = layer.k[:, :half] + 1j * layer.k[:, half : of.head_dim]
    k_ekj = factor_kj * first_ej[:, None]
    k = np.stack([k_ekj.real, k_ekj.imag], 2).reshape(len(layer.k), -1)
    return layer._replace(k=k)


def inputs(of: Geometry = SMALL, seed: int = 2, tokens: int = 1000) -> np.ndarray:
    """[x; 1], with a nonzero mean and an anisotropic covariance, like hidden states."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((tokens, of.width)) * np.arange(1, of.width + 1) ** -0.5 + 0.3
    return np.hstack([x, np.ones((tokens, 1))])


def angles(of: Geometry = SMALL, still: bool = False) -> np.ndarray:
    """Rope angles [T, H / 2] of text, an image grid, and text; checked against `text_rope`."""
    positions = np.tile(np.arange(TOKENS), (3, 1))
    positions[:, 8:32] = 8 + np.stack([np.zeros(24, int), np.arange(24) // 6, np.arange(24) % 6])
    frequency = np.arange(of.head_dim // 2)
    axis = np.zeros(of.head_dim // 2, int)
    for a in (1, 2):
        axis[(frequency % 3 == a) & (frequency < 3 * of.sections[a])] = a
    rope_angles = positions[axis].T * of.theta ** (-2 * frequency / of.head_dim)
    expected = text_rope(positions[None], of.head_dim, of.theta, of.sections)
    np.testing.assert_allclose(np.sin(rope_angles), expected.sin[0], atol=1e-4)
    return 0 * rope_angles if still else rope_angles


# ------------------------------------------------------------------- attention


def turn(x: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Rope over the last axis of [T, ..., H], pairs (j, j + H / 2)."""
    by = by.reshape(len(x), *[1] * (x.ndim - 2), -1)
    a, b = np.split(x, 2, -1)
    return np.concatenate([a * np.cos(by) - b * np.sin(by), b * np.cos(by) + a * np.sin(by)], -1)


def turn_pairs(x: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Rope with pairs (2j, 2j + 1)."""
    return turn(np.concatenate([x[..., 0::2], x[..., 1::2]], -1), by)


def weights(scores_nts: np.ndarray) -> np.ndarray:
    """Causal softmax over keys."""
    scores = np.where(np.tril(np.ones(scores_nts.shape[1:], bool)), scores_nts, -np.inf)
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def attend(scores_nts: np.ndarray, v_snh: np.ndarray) -> np.ndarray:
    """Attention outputs [T, N, H]."""
    return np.einsum("nts,snh->tnh", weights(scores_nts), v_snh, optimize=True)


def heads(x: np.ndarray, map_eo: np.ndarray, of: Geometry) -> np.ndarray:
    """Projects and splits into heads [T, N, H]; key-value heads are repeated for their queries."""
    split = (x @ map_eo).reshape(len(x), -1, of.head_dim)
    return np.repeat(split, of.heads // split.shape[1], 1)


def grouped(
    x: np.ndarray, layer: latent_layer.AffineLayer, by: np.ndarray, of: Geometry
) -> np.ndarray:
    """Grouped attention without QK-norm."""
    q, k, v = (heads(x, map_eo, of) for map_eo in (layer.q, layer.k, layer.v))
    return on_heads(q, k, v, by)


def on_heads(q: np.ndarray, k: np.ndarray, v: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Attention on the queries, keys and values of all heads, before rope."""
    scores = np.einsum("tnh,snh->nts", turn(q, by), turn(k, by), optimize=True)
    return attend(scores / np.sqrt(q.shape[-1]), v)


def rotated(x: np.ndarray, layer, change, by: np.ndarray, roped: int, of: Geometry) -> np.ndarray:
    """Grouped attention on rotated key heads, of which the first `roped` have rope."""
    group, width = of.heads // of.kv_heads, of.head_dim
    k_sch = (x @ layer.k @ change.to.T).reshape(len(x), -1, width)
    up_nho = np.repeat(change.back.reshape(-1, width, len(change.back)), group, 0)
    q_tno = np.einsum("tnh,nho->tno", heads(x, layer.q, of), up_nho, optimize=True)
    q_tnch = q_tno.reshape(*q_tno.shape[:2], -1, width)

    def scores(q_tnch: np.ndarray, k_sch: np.ndarray) -> np.ndarray:
        return np.einsum("tnch,sch->nts", q_tnch, k_sch, optimize=True)

    total = scores(q_tnch[:, :, roped:], k_sch[:, roped:])
    total += scores(turn_pairs(q_tnch[:, :, :roped], by), turn_pairs(k_sch[:, :roped], by))
    return attend(total / np.sqrt(width), heads(x, layer.v, of))


def latent(
    x: np.ndarray, layer: latent_layer.LatentLayer, by: np.ndarray, of: Geometry
) -> np.ndarray:
    """Latent attention as in `ivx.models.latent_attention`."""
    width, rank = of.head_dim, len(layer.kv_b)
    q_tnk = np.einsum("te,enk->tnk", x, layer.q, optimize=True)
    return from_latent(q_tnk, x @ layer.kv_a, layer.kv_b, by, width, rank)


def from_latent(
    q_tnk: np.ndarray, kv_a: np.ndarray, kv_b: np.ndarray, by: np.ndarray, width: int, rank: int
) -> np.ndarray:
    """Attention of queries [without rope | with rope] on [latent | rope key], before rope."""
    kv_snk = np.einsum("sr,rnk->snk", kv_a[:, :rank], kv_b, optimize=True)
    scores = np.einsum("tnh,snh->nts", q_tnk[..., :width], kv_snk[..., :width], optimize=True)
    scores += np.einsum(
        "tnp,sp->nts",
        turn_pairs(q_tnk[..., width:], by),
        turn_pairs(kv_a[:, rank:], by),
        optimize=True,
    )
    return attend(scores / np.sqrt(2 * width), kv_snk[..., width:])


def absorbed(
    x: np.ndarray, layer: latent_layer.LatentLayer, by: np.ndarray, of: Geometry
) -> np.ndarray:
    """`latent` in the absorbed form, as in decoding: without keys and values."""
    width, rank = of.head_dim, len(layer.kv_b)
    q_tnk = np.einsum("te,enk->tnk", x, layer.q, optimize=True)
    cache = x @ layer.kv_a
    cache[:, rank:] = turn_pairs(cache[:, rank:], by)
    key_rnh, value_rnh = layer.kv_b[..., :width], layer.kv_b[..., width:]
    q_latent = np.einsum("tnh,rnh->tnr", q_tnk[..., :width], key_rnh, optimize=True)
    q = np.concatenate([q_latent, turn_pairs(q_tnk[..., width:], by)], -1)
    scores = np.einsum("tnc,sc->nts", q, cache, optimize=True) / np.sqrt(2 * width)
    context = np.einsum("nts,sr->tnr", weights(scores), cache[:, :rank], optimize=True)
    return np.einsum("tnr,rnh->tnh", context, value_rnh, optimize=True)


def normed(x: np.ndarray, kernel: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """RMS norm per head, with the heads flattened again."""
    split = (x @ kernel).reshape(len(x), -1, len(scale))
    rms = np.sqrt(np.square(split).mean(-1, keepdims=True))
    return (split / rms * scale).reshape(len(x), -1)


# ------------------------------------------------------------------- the conversion of a layer


def shared(
    layer: latent_layer.AffineLayer, of: Geometry, rank: int, method: Method
) -> shared_latent.SharedLatent:
    x = inputs(of)
    keys_values = latent_layer.keys_and_values(layer, x.T @ x)
    rotation = shared_latent.rotate(keys_values, method)
    return shared_latent.compress(keys_values, rotation, rank)


def converted(
    layer: latent_layer.AffineLayer, of: Geometry, rank: int, method: Method
) -> latent_layer.LatentLayer:
    return latent_layer.latent_layer(layer, shared(layer, of, rank, method))


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def orthogonal(rng: np.random.Generator, width: int) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((width, width)))[0]
