"""One layer as `ivx.models.exact_latent_attention`: its cache is a projection of the source's.

The features of `ivx.conversion.shared_latent` are [rope(norm(k)); v], all that grouped attention
would keep of a token. Queries are normed and rotated too:

    score = sum over pairs of Re conj(q_j e^{i a_q}) k_j e^{i a_k}

is an inner product of the two, in which no angle is left. So rope need not be gathered anywhere:
virtual head 0 is only the part of the cache that values do not read, and all of `shared_latent`
holds with the moments of rotated keys. Nothing is approximated but by the width of the latent.

Shapes: O = K * H. All float64.
"""

import numpy as np

from ivx.conversion.shared_latent import KeysAndValues, SharedLatent


def keys_and_values(cached_oo: np.ndarray, queries_nhh: np.ndarray, o_proj: dict) -> KeysAndValues:
    """The layer as something to share a latent.

    Args:
      cached_oo: sum [k; v] [k; v]^T of normed, rotated keys and values, [2 O, 2 O].
      queries_nhh: sum q q^T of normed, rotated queries by heads.
      o_proj: with its kernel, [N * H, D].
    """
    heads, width = queries_nhh.shape[:2]
    size = len(cached_oo) // 2
    both = np.eye(2 * size)
    out_nhd = o_proj["kernel"].reshape(heads, width, -1)
    turn = np.ones((heads, width // 2), complex)
    return KeysAndValues(both[:, :size], both[:, size:], cached_oo, queries_nhh, out_nhd, turn)


def kernels(source: dict, shared: SharedLatent) -> dict:
    """The layer's parameters.

    Args:
      source: those of grouped attention, float64.
      shared: from `keys_and_values` of the same layer.
    """
    width = source["q_norm"]["scale"].shape[0]
    kept = {name: source[name] for name in ("q_proj", "k_proj", "v_proj", "q_norm", "k_norm")}
    return kept | {
        "kv_a_proj": {"kernel": shared.cached},
        "kv_b_proj": {"kernel": shared.up.reshape(len(shared.up), -1)},
        # The module scales its queries itself.
        "q_rope_proj": {"kernel": shared.ask[..., width:] / np.sqrt(2)},
    }
