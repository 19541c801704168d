"""Approximation 4: keys without rope and values share a latent, their principal directions.

    z = G [k; v]       latent = Q^T z        [k; v] ~ G^-1 Q latent

G is a square root of the metric of `ivx.conversion.weighting`, Q the top R eigenvectors of
sum z z^T. No latent of dimension R loses less of z.

Ranks may differ between layers, under a budget for all of them, by reverse water-filling: each
layer keeps the dimensions whose value exceeds a threshold common to all layers. The value of
dimension i in layer l is its share e_li of that layer's weighted energy. Values decrease with i, so
the threshold selects a prefix in every layer, and no other choice of as many dimensions loses less
in sum. Layers are stored with the largest rank; zeros pad the others (`ivx.hf.ranks`).

Shapes: M = (K - 1) * H + K * H, keys before values. All float64.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ivx.conversion.weighting import Weights
from ivx.errors import UserError


class Compression(NamedTuple):
    """down_mr and up_mr: latent = down^T [k; v], and [k; v] ~ up latent.

    `energy` is the share of the energy of z that the latent retains.
    """

    down: np.ndarray
    up: np.ndarray
    energy: float


def compress(moment_mm: np.ndarray, weights: Weights, rank: int) -> Compression:
    """The best latent of dimension `rank`.

    Args:
      moment_mm: sum [k; v] [k; v]^T.
      weights: G.
      rank: R.

    Raises:
      UserError: the rank is larger than M.
    """
    check_rank(rank, len(moment_mm))
    values, vectors_mr = np.linalg.eigh(weights.root @ moment_mm @ weights.root.T)
    directions_mr = vectors_mr[:, ::-1][:, :rank]
    values = np.maximum(values, 0)
    energy = values[::-1][:rank].sum() / values.sum() if values.any() else 1.0
    return Compression(
        weights.root.T @ directions_mr, weights.inverse @ directions_mr, float(energy)
    )


def spectrum(moment_mm: np.ndarray, weights: Weights) -> np.ndarray:
    """The energy that each dimension of the latent retains, [M], in descending order."""
    values = np.linalg.eigvalsh(weights.root @ moment_mm @ weights.root.T)[::-1]
    return np.maximum(values, 0)


def allocate_ranks(spectra: Sequence[np.ndarray], mean_rank: int, max_rank: int) -> tuple[int, ...]:
    """A rank for each layer, from 1 to `max_rank`, with mean `mean_rank`.

    Args:
      spectra: energy of each dimension of each layer, in descending order.
      mean_rank: the budget.
      max_rank: upper bound of every layer.

    Raises:
      UserError: the budget exceeds the bound.
    """
    if not 1 <= mean_rank <= max_rank:
        raise UserError(
            f"stage.mean_rank = {mean_rank} must be between 1 and the largest rank,"
            f" model.kv_rank = {max_rank}"
        )
    costs = []
    for layer, energies in enumerate(spectra):
        shares = energies[:max_rank] / max(energies.sum(), np.finfo(float).tiny)
        # Every layer keeps its first dimension.
        shares[0] = np.inf
        costs += [(-share, layer) for share in shares]
    ranks = np.zeros(len(spectra), int)
    for _, layer in sorted(costs)[: mean_rank * len(spectra)]:
        ranks[layer] += 1
    return tuple(int(rank) for rank in ranks)


def check_rank(rank: int, limit: int) -> None:
    """Rejects a latent wider than the keys and values it compresses.

    Raises:
      UserError: `rank` exceeds `limit`.
    """
    if rank > limit:
        raise UserError(
            f"a latent of rank {rank} is wider than the {limit} keys and values that it"
            " compresses; lower model.kv_rank"
        )
