"""A rotation across key heads that gathers positional energy in one of them (RoRoPE of TransMLA).

All key heads turn pair j of their rope by the same angle, so that an orthogonal map U_j across
heads, the same for both members of the pair, commutes with rope:

    virtual head c, pair j:  sum_k U_j[k, c] (key[k, j], key[k, j + H / 2])

U_j holds the principal directions of frequency j over heads, the strongest first. Virtual head 0
then has more of the keys than any other choice would give one head, and it alone keeps its rope.
Under three-axis rope the angle of pair j still depends on j and the token alone. Nearby frequencies
are not folded into one: their axes differ.

Shapes: O = K * H; virtual heads have rope pairs adjacent, as `rotate_pairs` wants them.
"""

import numpy as np


def gather(moment_oo: np.ndarray, kv_heads: int) -> np.ndarray:
    """The rotation, float64 [O, O]: virtual keys = rotation @ keys.

    Args:
      moment_oo: sum k k^T of the keys before rope, rope pairs (j, j + H / 2).
      kv_heads: K.
    """
    size = len(moment_oo)
    width = size // kv_heads
    half = width // 2
    rotation_oo = np.zeros((size, size))
    starts_k = np.arange(kv_heads) * width
    for pair in range(half):
        first_k, second_k = starts_k + pair, starts_k + pair + half
        across_kk = moment_oo[np.ix_(first_k, first_k)] + moment_oo[np.ix_(second_k, second_k)]
        directions_kc = np.linalg.eigh(across_kk)[1][:, ::-1]
        rotation_oo[np.ix_(starts_k + 2 * pair, first_k)] = directions_kc.T
        rotation_oo[np.ix_(starts_k + 2 * pair + 1, second_k)] = directions_kc.T
    return rotation_oo
