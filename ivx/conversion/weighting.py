"""What counts as near when keys and values are compressed together.

    |k - k'|^2_G + |v - v'|^2_H       latent and its map up make this least, summed over tokens

    plain     G = H = 1
    balanced  G = 1 / rho^2: neither is drowned by the other's scale; BKV of TransMLA
    output    G = sum over queries q of (up q)(up q)^T: errors of keys as scores see them
              H = sum over heads of W_o W_o^T: errors of values as the output projection sees them
              and rho between the two, as in balanced

rho = balance * (mean norm of a key column) / (mean norm of a value column), measured under G and H.

Shapes: nope = (K - 1) * H keys without rope, then K * H values; M = both. All float64.
"""

from typing import NamedTuple

import numpy as np

KINDS = ("plain", "balanced", "output")
# Keys whose norm is a smaller share than this of all keys, roped ones counted in, are noise.
NEGLIGIBLE = 1e-4
# Directions that nothing looks at keep this share of the mean weight, so that maps stay finite.
_LEAST = 1e-6


class Weights(NamedTuple):
    """A square root of the weights and its inverse, [M, M]; `ratio` is rho."""

    root: np.ndarray
    inverse: np.ndarray
    ratio: float


def weights(
    kind: str,
    balance: float,
    moment_mm: np.ndarray,
    nope: int,
    key_energy: float,
    asking_kk: np.ndarray,
    reading_vv: np.ndarray,
) -> Weights:
    """The weights of keys and values.

    Args:
      kind: one of KINDS.
      balance: multiplies rho.
      moment_mm: sum [k; v] [k; v]^T.
      nope: how many of the columns are keys.
      key_energy: sum |k|^2 of all keys, the roped ones counted in.
      asking_kk: G of `output`, [nope, nope].
      reading_vv: H of `output`, [M - nope, M - nope].
    """
    size = len(moment_mm)
    root_mm, inverse_mm = np.eye(size), np.eye(size)
    if kind == "output":
        for part, matrix in (
            (slice(0, nope), asking_kk),
            (slice(nope, size), reading_vv),
        ):
            root_mm[part, part], inverse_mm[part, part] = _root(matrix)
    seen_mm = root_mm @ moment_mm @ root_mm
    norms_m = np.sqrt(np.maximum(np.diag(seen_mm), 0))
    keys, values = norms_m[:nope], norms_m[nope:]
    # When rope's head took all of the keys, what is left of them is noise, and dividing by its norm
    # would make it as strong as the values.
    left = np.trace(moment_mm[:nope, :nope])
    if not values.any() or not keys.any() or left <= NEGLIGIBLE**2 * key_energy:
        ratio = 1.0
    elif kind == "plain":
        ratio = float(balance)
    else:
        ratio = float(balance * keys.mean() / values.mean())
    root_mm[:nope] /= ratio
    inverse_mm[:, :nope] *= ratio
    return Weights(root_mm, inverse_mm, ratio)


def _root(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The symmetric square root and its inverse, of a mean eigenvalue of 1."""
    values, vectors = np.linalg.eigh(matrix)
    if not values.max() > 0:
        return np.eye(len(matrix)), np.eye(len(matrix))
    values = values / np.maximum(values, 0).mean()
    roots = np.sqrt(np.maximum(values, _LEAST))
    return (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T
