"""The keys and values of one layer, linear in some features, become a latent and one rope key.

    y = M keys                         every score stays           `rotation`
    y(head 0) keeps its rope           the other virtual heads turn no more, or by a constant
    latent = down^T [y(others); v]     [y(others); v] ~ up latent  `compression`

    cached      [latent | y(head 0)], linear in the features
    key n       B_others up_k latent, in the coordinates of query head n
    value n     up_v latent
    query n     s [conj(t_n) q | B_0^T q]       s = sqrt((H + P) / H) undoes the new scale

B = M^-1, in the rows of the key-value head that query head n shares. t_n stands for the rope of
the other heads, one complex number a pair: 1, or the mean turn of what head n attends to.

Shapes: E features, O = K * H, M = (K - 1) * H + K * H; P = H. All float64.
"""

from typing import NamedTuple

import numpy as np

from ivx.conversion import compression, rotation, weighting
from ivx.conversion.method import Method


class KeysAndValues(NamedTuple):
    """What one layer's attention compares and mixes.

    Attributes:
      keys, values: maps from the features, [E, O].
      moment: sum of features times features, [E, E].
      queries: sum q q^T of each query head before rope, [N, H, H].
      out: o_proj by heads, [N, H, D].
      turn: t of each query head and pair, complex [N, H / 2].
    """

    keys: np.ndarray
    values: np.ndarray
    moment: np.ndarray
    queries: np.ndarray
    out: np.ndarray
    turn: np.ndarray


class Rotated(NamedTuple):
    """Keys in virtual heads, and what the compression needs to know.

    Attributes:
      roped: map of the head that keeps its rope, [E, P].
      kept: map of [y(others); v], [E, M].
      moment: of these, [M, M].
      ask_roped: from the query of each head to that of the roped key, [N, H, P].
      answer: from y(others) to the key of each head, [N, H, O - P].
      weights: of the compression.
      rope_energy: share of the keys' energy in the head that keeps its rope.
    """

    roped: np.ndarray
    kept: np.ndarray
    moment: np.ndarray
    ask_roped: np.ndarray
    answer: np.ndarray
    weights: weighting.Weights
    rope_energy: float


class SharedLatent(NamedTuple):
    """The layer with a latent, and what was lost on the way.

    Attributes:
      cached: from features to the latent and the rope key before rope, [E, R + P].
      ask: from the query of each head to its parts without rope and with, [N, H, H + P].
      up: from the latent to keys and values, [R, N, H + H].
      rope_energy, latent_energy: shares of the energy of keys, and of weighted keys and values.
      ratio: what keys were divided by before they were compressed.
      rank: how many numbers of the latent are used.
    """

    cached: np.ndarray
    ask: np.ndarray
    up: np.ndarray
    rope_energy: float
    latent_energy: float
    ratio: float
    rank: int


def rotate(layer: KeysAndValues, method: Method) -> Rotated:
    """Gathers rope in one head."""
    heads, width = layer.queries.shape[:2]
    kv_heads = layer.keys.shape[1] // width
    group = heads // kv_heads
    moment_oo = layer.keys.T @ layer.moment @ layer.keys
    asked_nj = np.einsum("nhh->nh", layer.queries).reshape(heads, 2, -1).sum(1)
    # What is asked of the lost rope: little where a constant turn says all of it.
    lost_nj = 1 - np.abs(layer.turn) ** 2 if method.turn == "mean" else np.ones_like(asked_nj)
    asked_kj = (asked_nj * lost_nj).reshape(kv_heads, group, -1).sum(1)
    change = rotation.gather(moment_oo, kv_heads, method.rotation, asked_kj)
    virtual_eo = layer.keys @ change.to.T
    # Rows of M^-1 by key-value head, handed to the query heads that share it.
    back_nho = np.repeat(change.back.reshape(kv_heads, width, -1), group, 0)
    kept_em = np.hstack([virtual_eo[:, width:], layer.values])
    moment_mm = kept_em.T @ layer.moment @ kept_em
    nope = virtual_eo.shape[1] - width
    answer_nho = back_nho[..., width:]
    return Rotated(
        virtual_eo[:, :width],
        kept_em,
        moment_mm,
        back_nho[..., :width],
        answer_nho,
        weighting.weights(
            method.weighting,
            method.balance,
            moment_mm,
            nope,
            np.trace(change.to @ moment_oo @ change.to.T),
            _asking(layer, answer_nho),
            _reading(layer, kv_heads),
        ),
        _gathered(moment_oo, change, width),
    )


def compress(layer: KeysAndValues, rotated: Rotated, rank: int) -> SharedLatent:
    """A latent of `rank` numbers for what lost its rope, and for the values.

    Raises:
      UserError: the rank is larger than M.
    """
    heads, width = layer.queries.shape[:2]
    nope = rotated.answer.shape[-1]
    latent = compression.compress(rotated.moment, rotated.weights, rank)
    key_rnh = np.einsum("or,nho->rnh", latent.up[:nope], rotated.answer)
    value_rkh = latent.up[nope:].T.reshape(rank, -1, width)
    value_rnh = np.repeat(value_rkh, heads // value_rkh.shape[1], 1)
    ask_nhk = np.concatenate([_turned(layer.turn), rotated.ask_roped], -1)
    return SharedLatent(
        cached=np.hstack([rotated.kept @ latent.down, rotated.roped]),
        ask=np.sqrt(2.0) * ask_nhk,
        up=np.concatenate([key_rnh, value_rnh], -1),
        rope_energy=rotated.rope_energy,
        latent_energy=latent.kept,
        ratio=rotated.weights.ratio,
        rank=rank,
    )


def spectrum(layer: KeysAndValues, method: Method) -> np.ndarray:
    """What each number of a latent of this layer adds to the energy kept, [M], the most first."""
    rotated = rotate(layer, method)
    return compression.spectrum(rotated.moment, rotated.weights)


def widen(shared: SharedLatent, rank: int) -> SharedLatent:
    """The same with zeros behind the latent, so that it is `rank` wide."""
    own = len(shared.up)
    room = rank - own
    latent, rope = shared.cached[:, :own], shared.cached[:, own:]
    return shared._replace(
        cached=np.hstack([np.pad(latent, [(0, 0), (0, room)]), rope]),
        up=np.pad(shared.up, [(0, room), (0, 0), (0, 0)]),
        rank=own,
    )


def _gathered(moment_oo: np.ndarray, change: rotation.Rotation, width: int) -> float:
    """Share of the keys' energy that head 0 brings back."""
    energy = np.trace(moment_oo)
    lost_oo = change.back[:, width:] @ change.to[width:]
    return float(1 - np.vdot(lost_oo, lost_oo @ moment_oo) / energy) if energy > 0 else 1.0


def _turned(turn_nj: np.ndarray) -> np.ndarray:
    """From q to conj(t) q in real numbers, pairs (j, j + H / 2): [N, H, H], from axis 1 to 2."""
    heads, half = turn_nj.shape
    turned = np.zeros((heads, 2, half, 2, half))
    j = np.arange(half)
    turned[:, 0, j, 0, j] = turned[:, 1, j, 1, j] = turn_nj.real
    turned[:, 1, j, 0, j] = turn_nj.imag
    turned[:, 0, j, 1, j] = -turn_nj.imag
    return turned.reshape(heads, 2 * half, 2 * half)


def _asking(layer: KeysAndValues, answer_nho: np.ndarray) -> np.ndarray:
    """sum over queries of (B_others^T conj(t) q)(...)^T, [O - P, O - P]."""
    turned_nhh = _turned(layer.turn)
    seen_nhh = np.einsum("nab,nac,ncd->nbd", turned_nhh, layer.queries, turned_nhh, optimize=True)
    return np.einsum("nha,nhi,nib->ab", answer_nho, seen_nhh, answer_nho, optimize=True)


def _reading(layer: KeysAndValues, kv_heads: int) -> np.ndarray:
    """sum over heads of W_o W_o^T, block by block of key-value heads, [O, O]."""
    read_nhh = np.einsum("nhd,nid->nhi", layer.out, layer.out, optimize=True)
    width = read_nhh.shape[-1]
    read_khh = read_nhh.reshape(kv_heads, -1, width, width).sum(1)
    reading = np.zeros((kv_heads, width, kv_heads, width))
    k = np.arange(kv_heads)
    reading[k, :, k] = read_khh
    return reading.reshape(kv_heads * width, -1)
