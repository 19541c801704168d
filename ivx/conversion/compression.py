"""Keys without rope and values share a latent: the principal directions of both, weighted.

    z = G [k; v]       latent = Q^T z        [k; v] ~ G^-1 Q latent

G is a square root of the weights of `ivx.conversion.weighting`, Q the R strongest eigenvectors of
sum z z^T. No latent of R numbers loses less of z.

Shapes: M = (K - 1) * H + K * H, keys before values. All float64.
"""

from typing import NamedTuple

import numpy as np

from ivx.conversion.weighting import Weights
from ivx.errors import UserError


class Compression(NamedTuple):
    """down_mr and up_mr: latent = down^T [k; v], and [k; v] ~ up latent.

    `kept` is the share of the energy of z that the latent holds.
    """

    down: np.ndarray
    up: np.ndarray
    kept: float


def compress(moment_mm: np.ndarray, weights: Weights, rank: int) -> Compression:
    """The best latent of `rank` numbers.

    Args:
      moment_mm: sum [k; v] [k; v]^T.
      weights: G.
      rank: R.

    Raises:
      UserError: the rank is larger than M.
    """
    check_rank(rank, len(moment_mm))
    values, vectors_mr = np.linalg.eigh(weights.root @ moment_mm @ weights.root.T)
    chosen_mr = vectors_mr[:, ::-1][:, :rank]
    values = np.maximum(values, 0)
    kept = values[::-1][:rank].sum() / values.sum() if values.any() else 1.0
    return Compression(weights.root.T @ chosen_mr, weights.inverse @ chosen_mr, float(kept))


def spectrum(moment_mm: np.ndarray, weights: Weights) -> np.ndarray:
    """What each number of a latent adds to the energy kept, [M], the most first."""
    values = np.linalg.eigvalsh(weights.root @ moment_mm @ weights.root.T)[::-1]
    return np.maximum(values, 0)


def check_rank(rank: int, possible: int) -> None:
    """Refuses a latent that is wider than what it stands for.

    Raises:
      UserError: it is.
    """
    if rank > possible:
        raise UserError(
            f"a latent of {rank} numbers is wider than the {possible} keys and values it stands"
            " for; lower model.kv_rank"
        )
