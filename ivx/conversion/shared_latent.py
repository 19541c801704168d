"""The keys and values of one layer, linear in some features, become a latent and one rope key.

    y = M keys                         preserves every score            `rotation`
    y(head 0) keeps its rope           the other virtual heads lose it, or rotate by a constant
    latent = down^T [y(others); v]     [y(others); v] ~ up latent       `compression`

    cached      [latent | y(head 0)], linear in the features
    key n       B_others up_k latent, in the coordinates of query head n
    value n     up_v latent
    query n     s [conj(t_n) q | B_0^T q]       s = sqrt((H + P) / H) undoes the new scale

B = M^-1, restricted to the rows of the key-value head that query head n uses. t_n replaces the rope
of the other heads, one complex number per pair: 1, or the mean rotation over what head n attends
to.

Shapes: E features, O = K * H, M = (K - 1) * H + K * H; P = H. All float64.
"""

from typing import NamedTuple

import numpy as np

from ivx.conversion import compression, rotation, weighting
from ivx.conversion.method import Method


class KeysAndValues(NamedTuple):
    """The keys, values and moments of one layer's attention.

    Attributes:
      keys, values: maps from the features, [E, O].
      moment: sum of features times features, [E, E].
      queries: sum q q^T of each query head before rope, [N, H, H].
      out: o_proj by heads, [N, H, D].
      mean_rotation: t of each query head and pair, complex [N, H / 2].
    """

    keys: np.ndarray
    values: np.ndarray
    moment: np.ndarray
    queries: np.ndarray
    out: np.ndarray
    mean_rotation: np.ndarray


class Rotated(NamedTuple):
    """Keys in virtual heads, and the inputs of the compression.

    Attributes:
      rope_key: map of the head that keeps its rope, [E, P].
      compressed: map of [y(others); v], [E, M].
      moment: second moment of [y(others); v], [M, M].
      rope_query: from the query of each head to that of the rope key, [N, H, P].
      unrotate: from y(others) to the key of each head, [N, H, O - P].
      weights: of the compression.
      rope_energy: share of the key energy in the head that keeps its rope.
    """

    rope_key: np.ndarray
    compressed: np.ndarray
    moment: np.ndarray
    rope_query: np.ndarray
    unrotate: np.ndarray
    weights: weighting.Weights
    rope_energy: float


class SharedLatent(NamedTuple):
    """The layer with a latent, and what the approximations lost.

    Attributes:
      cached: from features to the latent and the rope key before rope, [E, R + P].
      query: from the query of each head to its parts without rope and with, [N, H, H + P].
      up: from the latent to keys and values, [R, N, H + H].
      rope_energy: share of the key energy in the head that keeps its rope.
      latent_energy: share of the weighted key and value energy that the latent retains.
      ratio: divisor of the keys before the compression.
      rank: dimensions of the latent in use.
    """

    cached: np.ndarray
    query: np.ndarray
    up: np.ndarray
    rope_energy: float
    latent_energy: float
    ratio: float
    rank: int


def rotate(layer: KeysAndValues, method: Method) -> Rotated:
    """Gathers rope in one virtual head."""
    heads, width = layer.queries.shape[:2]
    kv_heads = layer.keys.shape[1] // width
    group = heads // kv_heads
    moment_oo = layer.keys.T @ layer.moment @ layer.keys
    energy_nj = np.einsum("nhh->nh", layer.queries).reshape(heads, 2, -1).sum(1)
    # Share of a pair's rotation that a constant cannot represent.
    lost_nj = (
        1 - np.abs(layer.mean_rotation) ** 2 if method.mean_rotation else np.ones_like(energy_nj)
    )
    energy_kj = (energy_nj * lost_nj).reshape(kv_heads, group, -1).sum(1)
    basis = rotation.gather_positions(moment_oo, kv_heads, method.rotation, energy_kj)
    virtual_eo = layer.keys @ basis.to.T
    # Rows of M^-1 by key-value head, repeated for the query heads that share it.
    back_nho = np.repeat(basis.back.reshape(kv_heads, width, -1), group, 0)
    compressed_em = np.hstack([virtual_eo[:, width:], layer.values])
    moment_mm = compressed_em.T @ layer.moment @ compressed_em
    nope = virtual_eo.shape[1] - width
    unrotate_nho = back_nho[..., width:]
    return Rotated(
        virtual_eo[:, :width],
        compressed_em,
        moment_mm,
        back_nho[..., :width],
        unrotate_nho,
        weighting.weights(
            method.weighting,
            method.balance,
            moment_mm,
            nope,
            np.trace(basis.to @ moment_oo @ basis.to.T),
            _key_metric(layer, unrotate_nho),
            _value_metric(layer, kv_heads),
        ),
        _rope_energy(moment_oo, basis, width),
    )


def compress(layer: KeysAndValues, rotated: Rotated, rank: int) -> SharedLatent:
    """A latent of dimension `rank` for the values and the keys without rope.

    Raises:
      UserError: the rank is larger than M.
    """
    heads, width = layer.queries.shape[:2]
    nope = rotated.unrotate.shape[-1]
    latent = compression.compress(rotated.moment, rotated.weights, rank)
    key_rnh = np.einsum("or,nho->rnh", latent.up[:nope], rotated.unrotate)
    value_rkh = latent.up[nope:].T.reshape(rank, -1, width)
    value_rnh = np.repeat(value_rkh, heads // value_rkh.shape[1], 1)
    query_nhk = np.concatenate([_rotation_matrices(layer.mean_rotation), rotated.rope_query], -1)
    return SharedLatent(
        cached=np.hstack([rotated.compressed @ latent.down, rotated.rope_key]),
        query=np.sqrt(2.0) * query_nhk,
        up=np.concatenate([key_rnh, value_rnh], -1),
        rope_energy=rotated.rope_energy,
        latent_energy=latent.energy,
        ratio=rotated.weights.ratio,
        rank=rank,
    )


def spectrum(layer: KeysAndValues, method: Method) -> np.ndarray:
    """The energy that each dimension of this layer's latent retains, [M], in descending order."""
    rotated = rotate(layer, method)
    return compression.spectrum(rotated.moment, rotated.weights)


def pad(shared: SharedLatent, rank: int) -> SharedLatent:
    """The same layer with its latent padded with zeros to `rank`."""
    used = len(shared.up)
    padding = rank - used
    latent, rope = shared.cached[:, :used], shared.cached[:, used:]
    return shared._replace(
        cached=np.hstack([np.pad(latent, [(0, 0), (0, padding)]), rope]),
        up=np.pad(shared.up, [(0, padding), (0, 0), (0, 0)]),
        rank=used,
    )


def _rope_energy(moment_oo: np.ndarray, basis: rotation.Rotation, width: int) -> float:
    """Share of the key energy that head 0 reconstructs."""
    energy = np.trace(moment_oo)
    lost_oo = basis.back[:, width:] @ basis.to[width:]
    return float(1 - np.vdot(lost_oo, lost_oo @ moment_oo) / energy) if energy > 0 else 1.0


def _rotation_matrices(rotation_nj: np.ndarray) -> np.ndarray:
    """q -> conj(t) q as real matrices, pairs (j, j + H / 2): [N, H, H], from axis 1 to axis 2."""
    heads, half = rotation_nj.shape
    matrices = np.zeros((heads, 2, half, 2, half))
    j = np.arange(half)
    matrices[:, 0, j, 0, j] = matrices[:, 1, j, 1, j] = rotation_nj.real
    matrices[:, 1, j, 0, j] = rotation_nj.imag
    matrices[:, 0, j, 1, j] = -rotation_nj.imag
    return matrices.reshape(heads, 2 * half, 2 * half)


def _key_metric(layer: KeysAndValues, unrotate_nho: np.ndarray) -> np.ndarray:
    """sum over queries of (B_others^T conj(t) q)(...)^T, [O - P, O - P]."""
    matrices_nhh = _rotation_matrices(layer.mean_rotation)
    moment_nhh = np.einsum(
        "nab,nac,ncd->nbd", matrices_nhh, layer.queries, matrices_nhh, optimize=True
    )
    return np.einsum("nha,nhi,nib->ab", unrotate_nho, moment_nhh, unrotate_nho, optimize=True)


def _value_metric(layer: KeysAndValues, kv_heads: int) -> np.ndarray:
    """sum over heads of W_o W_o^T, block-diagonal over key-value heads, [O, O]."""
    metric_nhh = np.einsum("nhd,nid->nhi", layer.out, layer.out, optimize=True)
    width = metric_nhh.shape[-1]
    metric_khh = metric_nhh.reshape(kv_heads, -1, width, width).sum(1)
    metric = np.zeros((kv_heads, width, kv_heads, width))
    k = np.arange(kv_heads)
    metric[k, :, k] = metric_khh
    return metric.reshape(kv_heads * width, -1)
