"""Keys without rope and values share a latent: principal directions of both, balanced.

    z = [k / rho; v]      latent = Q^T z      [k; v] ~ [rho Q_k; Q_v] latent

Q holds the R strongest eigenvectors of sum z z^T. rho = balance * (mean norm of a key column) /
(mean norm of a value column), so that with balance 1 neither is drowned by the other's scale.

Shapes: M = (K - 1) * H + K * H, keys before values.
"""

from typing import NamedTuple

import numpy as np

from ivx.errors import UserError

# Keys whose norm is a smaller share than this of all keys, roped ones counted in, are noise.
NEGLIGIBLE = 1e-4


class Compression(NamedTuple):
    """down_mr and up_mr, float64: latent = down^T [k; v], and [k; v] ~ up latent.

    `kept` is the share of the energy of z that the latent holds, `ratio` is rho.
    """

    down: np.ndarray
    up: np.ndarray
    kept: float
    ratio: float


def compress(
    moment_mm: np.ndarray, nope: int, key_energy: float, rank: int, balance: float
) -> Compression:
    """The best latent of `rank` numbers.

    Args:
      moment_mm: sum [k; v] [k; v]^T.
      nope: how many of the columns are keys.
      key_energy: sum |k|^2 of all keys, the roped ones counted in.
      rank: R.
      balance: multiplies the balance ratio.

    Raises:
      UserError: the rank is larger than M.
    """
    if rank > len(moment_mm):
        raise UserError(
            f"a latent of {rank} numbers is wider than the {len(moment_mm)} keys and values"
            " it stands for; lower kv_rank of the preset"
        )
    ratio = balance_ratio(moment_mm, nope, key_energy, balance)
    weights_m = np.ones(len(moment_mm))
    weights_m[:nope] = 1 / ratio
    values, vectors = np.linalg.eigh(weights_m[:, None] * moment_mm * weights_m)
    chosen_mr = vectors[:, ::-1][:, :rank]
    values = np.maximum(values, 0)
    kept = values[::-1][:rank].sum() / values.sum() if values.any() else 1.0
    return Compression(
        weights_m[:, None] * chosen_mr, chosen_mr / weights_m[:, None], float(kept), ratio
    )


def balance_ratio(moment_mm: np.ndarray, nope: int, key_energy: float, balance: float) -> float:
    """rho; 1 where there is nothing to balance.

    When rope's head took all of the keys, what is left of them is noise, and dividing by its norm
    would make it as strong as the values.
    """
    norms_m = np.sqrt(np.maximum(np.diag(moment_mm), 0))
    keys, values = norms_m[:nope], norms_m[nope:]
    if not values.any() or np.square(keys).sum() <= NEGLIGIBLE**2 * key_energy:
        return 1.0
    return float(balance * keys.mean() / values.mean())
