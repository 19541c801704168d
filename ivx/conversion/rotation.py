"""A rotation across key heads that gathers positional energy in one of them.

Write pair j of head k's rope as one complex number, z_k = key[k, j] + i key[k, j + H / 2]. Rope
multiplies it by exp(i angle_j), the same for all heads, so that any unitary map U_j across heads
commutes with rope and leaves every score as it is:

    virtual head c, pair j:  sum_k conj(U_j[k, c]) z_k

U_j holds the principal directions of frequency j over heads, the strongest first. Virtual head 0
then has more of the keys than any other choice would give one head, and it alone keeps its rope.

    real     U_j orthogonal: RoRoPE of TransMLA, as the release presumably has it
    complex  U_j unitary: heads may be out of phase; never gathers less, and the shapes are the same

Under three-axis rope the angle of pair j still depends on j and the token alone. Nearby frequencies
are not folded into one: their axes differ.

Shapes: O = K * H; virtual heads have rope pairs adjacent, as `rotate_pairs` wants them.
"""

import numpy as np

KINDS = ("real", "complex")


def gather(moment_oo: np.ndarray, kv_heads: int, kind: str = "real") -> np.ndarray:
    """The rotation, float64 [O, O], orthogonal: virtual keys = rotation @ keys.

    Args:
      moment_oo: sum k k^T of the keys before rope, rope pairs (j, j + H / 2).
      kv_heads: K.
      kind: real or complex.
    """
    size = len(moment_oo)
    width = size // kv_heads
    half = width // 2
    rotation_oo = np.zeros((size, size))
    starts_k = np.arange(kv_heads) * width
    for pair in range(half):
        first_k, second_k = starts_k + pair, starts_k + pair + half
        # sum z z^H over the heads; its imaginary part tells how far they are out of phase.
        across_kk = moment_oo[np.ix_(first_k, first_k)] + moment_oo[np.ix_(second_k, second_k)]
        if kind == "complex":
            turned_kk = moment_oo[np.ix_(second_k, first_k)] - moment_oo[np.ix_(first_k, second_k)]
            across_kk = across_kk + 1j * turned_kk
        directions_ck = np.linalg.eigh(across_kk)[1][:, ::-1].T
        even_c, odd_c = starts_k + 2 * pair, starts_k + 2 * pair + 1
        rotation_oo[np.ix_(even_c, first_k)] = directions_ck.real
        rotation_oo[np.ix_(even_c, second_k)] = directions_ck.imag
        rotation_oo[np.ix_(odd_c, first_k)] = -directions_ck.imag
        rotation_oo[np.ix_(odd_c, second_k)] = directions_ck.real
    return rotation_oo
