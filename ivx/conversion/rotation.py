"""Approximation 2: a change of basis across key heads gathers positional energy in one of them.

Write pair j of head k's rope as one complex number, z_k = key[k, j] + i key[k, j + H / 2]. Rope
multiplies it by exp(i a), where a is the angle of pair j at this token, equal for all heads. Let M
be any invertible complex K x K matrix, one for each pair:

    virtual head c, pair j:  y = M z        so that  z = M^-1 y

**It commutes with rope**: exp(i a) is a scalar, so M (exp(i a) z) = exp(i a) M z. A score is
Re sum_j conj(q_j) exp(i (a_key - a_query)) z_kj, linear in z. Substituting M^-1 y for z therefore
preserves every score, whatever M is. Three-axis rope behaves the same, since the angle of pair j
depends on j and the token alone. A real M is the special case that acts on the first and the second
half alike.

Only virtual head 0 keeps its rope. It should hold as much energy as one head can:

    real      M = U^T, U the eigenvectors of S = sum Re(z z^H): RoRoPE of TransMLA
    complex   M = U^H, U the eigenvectors of C = sum z z^H
    weighted  M = U^H W, U those of sum (W z)(W z)^H, W^2 the energy of the queries of each head
              that lose rope, |q|^2 (1 - |t|^2) with t the constant that replaces it

**Complex gathers at least as much as real**: head 0 of either is u^H z for a unit vector u, with
energy u^H C u. `complex` maximizes it over complex unit vectors. `real` maximizes u^T S u over real
ones, where u^T C u = u^T (Re C) u because Im C is antisymmetric. Real unit vectors are a subset of
the complex ones. The two are equal if the heads are in phase. `weighted` is `complex` with heads
scaled down that no query uses; its M is not unitary.

Neighbouring frequencies are not folded into one: under three-axis rope their axes differ.

Shapes: O = K * H; virtual heads have adjacent rope pairs, as `rotate_pairs` expects.
"""

from typing import NamedTuple

import numpy as np

KINDS = ("real", "complex", "weighted")
# Lower bound of a head's weight, as a share of the mean.
_MIN_WEIGHT = 1e-4


class Rotation(NamedTuple):
    """virtual keys = to @ keys, keys = back @ virtual keys; both float64 [O, O]."""

    to: np.ndarray
    back: np.ndarray


def gather_positions(
    moment_oo: np.ndarray,
    kv_heads: int,
    kind: str = "real",
    query_energy_kj: np.ndarray | None = None,
) -> Rotation:
    """The change of basis; it is orthogonal unless `kind` is `weighted`.

    Args:
      moment_oo: sum k k^T of the keys before rope, rope pairs (j, j + H / 2).
      kv_heads: K.
      kind: one of KINDS.
      query_energy_kj: for `weighted`, the energy of the queries that lose rope, by key-value head
        and pair, [K, H / 2].
    """
    size = len(moment_oo)
    width = size // kv_heads
    half = width // 2
    to_oo, back_oo = np.zeros((size, size)), np.zeros((size, size))
    starts_k = np.arange(kv_heads) * width
    for pair in range(half):
        first_k, second_k = starts_k + pair, starts_k + pair + half
        # sum z z^H over the heads; its imaginary part measures how far they are out of phase.
        moment_kk = moment_oo[np.ix_(first_k, first_k)] + moment_oo[np.ix_(second_k, second_k)]
        if kind != "real":
            phase_kk = moment_oo[np.ix_(second_k, first_k)] - moment_oo[np.ix_(first_k, second_k)]
            moment_kk = moment_kk + 1j * phase_kk
        weight_k = np.ones(kv_heads)
        if kind == "weighted" and query_energy_kj[:, pair].any():
            energy_k = query_energy_kj[:, pair] / query_energy_kj[:, pair].mean()
            weight_k = np.sqrt(np.maximum(energy_k, _MIN_WEIGHT))
        weighted_kk = weight_k[:, None] * moment_kk * weight_k
        directions_ck = np.linalg.eigh(weighted_kk)[1][:, ::-1].conj().T
        rows = _PairRows(starts_k + 2 * pair, starts_k + 2 * pair + 1, first_k, second_k)
        rows.write_to(to_oo, directions_ck * weight_k)
        rows.write_back(back_oo, (directions_ck / weight_k).conj().T)
    return Rotation(to_oo, back_oo)


class _PairRows(NamedTuple):
    """Rows of one rope pair, in virtual heads (even, odd) and in key heads (first, second)."""

    even: np.ndarray
    odd: np.ndarray
    first: np.ndarray
    second: np.ndarray

    def write_to(self, to_oo: np.ndarray, matrix_ck: np.ndarray) -> None:
        """Writes y = M z in real arithmetic."""
        to_oo[np.ix_(self.even, self.first)] = matrix_ck.real
        to_oo[np.ix_(self.even, self.second)] = -matrix_ck.imag
        to_oo[np.ix_(self.odd, self.first)] = matrix_ck.imag
        to_oo[np.ix_(self.odd, self.second)] = matrix_ck.real

    def write_back(self, back_oo: np.ndarray, matrix_kc: np.ndarray) -> None:
        """Writes z = M^-1 y in real arithmetic."""
        back_oo[np.ix_(self.first, self.even)] = matrix_kc.real
        back_oo[np.ix_(self.first, self.odd)] = -matrix_kc.imag
        back_oo[np.ix_(self.second, self.even)] = matrix_kc.imag
        back_oo[np.ix_(self.second, self.odd)] = matrix_kc.real
