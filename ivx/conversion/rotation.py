"""A change of coordinates across key heads that gathers positional energy in one of them.

Write pair j of head k's rope as one complex number, z_k = key[k, j] + i key[k, j + H / 2]. Rope
multiplies it by exp(i a), a = angle of pair j at this token, the same for all heads. Let M be any
invertible complex K x K matrix, one for each pair:

    virtual head c, pair j:  y = M z        so that  z = M^-1 y

**It commutes with rope**: exp(i a) is a number, so M (exp(i a) z) = exp(i a) M z. A score is
Re sum_j conj(q_j) exp(i (a_key - a_query)) z_kj, linear in z: put M^-1 y for z, and every score
stays as it was, whatever M is. Under three-axis rope the same holds, since the angle of pair j
depends on j and the token alone. A real M is the special case that turns first and second half
alike.

Virtual head 0 alone keeps its rope. It should hold as much as one head can:

    real      M = U^T, U the eigenvectors of S = sum Re(z z^H): RoRoPE of TransMLA
    complex   M = U^H, U the eigenvectors of C = sum z z^H
    weighted  M = U^H W, U those of sum (W z)(W z)^H, W^2 the energy of what asks each head and
              would miss its rope, |q|^2 (1 - |t|^2) with the turn t that stands for it

**Complex gathers at least as much as real**: head 0 of either is u^H z for a unit vector u, with
energy u^H C u. `complex` takes the largest over complex unit vectors; `real` takes the largest of
u^T S u over real ones, where u^T C u = u^T (Re C) u because Im C is antisymmetric. Real unit
vectors are among the complex ones. They are equal when heads are in phase. `weighted` is the same
with heads that no query looks at made small; M is not unitary then.

Nearby frequencies are not folded into one: under three-axis rope their axes differ.

Shapes: O = K * H; virtual heads have rope pairs adjacent, as `rotate_pairs` wants them.
"""

from typing import NamedTuple

import numpy as np

KINDS = ("real", "complex", "weighted")
# A head that is asked for less than this share of the mean is gathered as if it were this much.
_LEAST = 1e-4


class Rotation(NamedTuple):
    """virtual keys = to @ keys, keys = back @ virtual keys; both float64 [O, O]."""

    to: np.ndarray
    back: np.ndarray


def gather(
    moment_oo: np.ndarray, kv_heads: int, kind: str = "real", asked_kj: np.ndarray | None = None
) -> Rotation:
    """The change of coordinates; orthogonal unless it is weighted.

    Args:
      moment_oo: sum k k^T of the keys before rope, rope pairs (j, j + H / 2).
      kv_heads: K.
      kind: one of KINDS.
      asked_kj: for `weighted`, the energy of the queries that miss rope of each head and pair,
        [K, H / 2].
    """
    size = len(moment_oo)
    width = size // kv_heads
    half = width // 2
    to_oo, back_oo = np.zeros((size, size)), np.zeros((size, size))
    starts_k = np.arange(kv_heads) * width
    for pair in range(half):
        first_k, second_k = starts_k + pair, starts_k + pair + half
        # sum z z^H over the heads; its imaginary part tells how far they are out of phase.
        across_kk = moment_oo[np.ix_(first_k, first_k)] + moment_oo[np.ix_(second_k, second_k)]
        if kind != "real":
            turned_kk = moment_oo[np.ix_(second_k, first_k)] - moment_oo[np.ix_(first_k, second_k)]
            across_kk = across_kk + 1j * turned_kk
        weight_k = np.ones(kv_heads)
        if kind == "weighted" and asked_kj[:, pair].any():
            asked_k = asked_kj[:, pair] / asked_kj[:, pair].mean()
            weight_k = np.sqrt(np.maximum(asked_k, _LEAST))
        weighted_kk = weight_k[:, None] * across_kk * weight_k
        directions_ck = np.linalg.eigh(weighted_kk)[1][:, ::-1].conj().T
        places = _Places(starts_k + 2 * pair, starts_k + 2 * pair + 1, first_k, second_k)
        places.put(to_oo, directions_ck * weight_k)
        places.put_back(back_oo, (directions_ck / weight_k).conj().T)
    return Rotation(to_oo, back_oo)


class _Places(NamedTuple):
    """Rows of a pair in virtual heads (even, odd) and in heads (first, second)."""

    even: np.ndarray
    odd: np.ndarray
    first: np.ndarray
    second: np.ndarray

    def put(self, to_oo: np.ndarray, matrix_ck: np.ndarray) -> None:
        """Writes y = M z in real numbers."""
        to_oo[np.ix_(self.even, self.first)] = matrix_ck.real
        to_oo[np.ix_(self.even, self.second)] = -matrix_ck.imag
        to_oo[np.ix_(self.odd, self.first)] = matrix_ck.imag
        to_oo[np.ix_(self.odd, self.second)] = matrix_ck.real

    def put_back(self, back_oo: np.ndarray, matrix_kc: np.ndarray) -> None:
        """Writes z = M^-1 y in real numbers."""
        back_oo[np.ix_(self.first, self.even)] = matrix_kc.real
        back_oo[np.ix_(self.first, self.odd)] = -matrix_kc.imag
        back_oo[np.ix_(self.second, self.even)] = matrix_kc.imag
        back_oo[np.ix_(self.second, self.odd)] = matrix_kc.real
