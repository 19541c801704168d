"""The metric in which keys and values are compressed together.

    |k - k'|^2_G + |v - v'|^2_H       minimized by the latent and its up-projection, over all tokens

    plain     G = H = 1
    balanced  G = 1 / rho^2, so that neither drowns in the other's scale; BKV of TransMLA
    output    G = sum over queries q of (up q)(up q)^T: errors of keys as scores see them
              H = sum over heads of W_o W_o^T: errors of values as the output projection sees them
              and rho between the two, as in balanced

rho = balance * (mean norm of a key column) / (mean norm of a value column), measured under G and H.

Shapes: nope = (K - 1) * H keys without rope, then K * H values; M = both. All float64.
"""

from typing import NamedTuple

import numpy as np

KINDS = ("plain", "balanced", "output")
# Keys without rope are noise if their norm is below this share of the norm of all keys.
NEGLIGIBLE = 1e-4
# Lower bound of a direction's weight, as a share of the mean, which keeps the inverse finite.
_MIN_WEIGHT = 1e-6


class Weights(NamedTuple):
    """A square root of the metric and its inverse, [M, M]; `ratio` is rho."""

    root: np.ndarray
    inverse: np.ndarray
    ratio: float


def weights(
    kind: str,
    balance: float,
    moment_mm: np.ndarray,
    nope: int,
    key_energy: float,
    key_metric: np.ndarray,
    value_metric: np.ndarray,
) -> Weights:
    """The weights of keys and values.

    Args:
      kind: one of KINDS.
      balance: factor on rho.
      moment_mm: sum [k; v] [k; v]^T.
      nope: number of columns that are keys.
      key_energy: sum |k|^2 of all keys, including the head with rope.
      key_metric: G of `output`, [nope, nope].
      value_metric: H of `output`, [M - nope, M - nope].
    """
    size = len(moment_mm)
    root_mm, inverse_mm = np.eye(size), np.eye(size)
    if kind == "output":
        for part, metric in (
            (slice(0, nope), key_metric),
            (slice(nope, size), value_metric),
        ):
            root_mm[part, part], inverse_mm[part, part] = _square_root(metric)
    weighted_mm = root_mm @ moment_mm @ root_mm
    norms_m = np.sqrt(np.maximum(np.diag(weighted_mm), 0))
    keys, values = norms_m[:nope], norms_m[nope:]
    # If the rope head holds all of the key energy, the rest is noise. Dividing by its norm would
    # make that noise as strong as the values.
    remaining = np.trace(moment_mm[:nope, :nope])
    if not values.any() or not keys.any() or remaining <= NEGLIGIBLE**2 * key_energy:
        ratio = 1.0
    elif kind == "plain":
        ratio = float(balance)
    else:
        ratio = float(balance * keys.mean() / values.mean())
    root_mm[:nope] /= ratio
    inverse_mm[:, :nope] *= ratio
    return Weights(root_mm, inverse_mm, ratio)


def _square_root(metric: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The symmetric square root and its inverse, scaled to a mean eigenvalue of 1."""
    values, vectors = np.linalg.eigh(metric)
    if not values.max() > 0:
        return np.eye(len(metric)), np.eye(len(metric))
    values = values / np.maximum(values, 0).mean()
    roots = np.sqrt(np.maximum(values, _MIN_WEIGHT))
    return (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T
