"""One layer in the released parameterization, from projections that are affine in x.

The features of `ivx.conversion.shared_latent` are [x; 1]:

    q_proj     W_q ask          kv_a_proj  cached          kv_b_proj  up

Shapes: E = D + 1, O = K * H; P = H. All float64.
"""

from typing import NamedTuple

import numpy as np

from ivx.conversion.shared_latent import KeysAndValues, SharedLatent


class AffineLayer(NamedTuple):
    """Projections without QK-norm, biases in the last row: q [E, N * H], k and v [E, O].

    `o` is o_proj, [N * H, D], and `turn` as in `KeysAndValues`.
    """

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    o: np.ndarray
    turn: np.ndarray


class LatentLayer(NamedTuple):
    """Projections of latent attention: q [E, N, H + P], kv_a [E, R + P], kv_b [R, N, H + H]."""

    q: np.ndarray
    kv_a: np.ndarray
    kv_b: np.ndarray


def keys_and_values(affine: AffineLayer, inputs_ee: np.ndarray) -> KeysAndValues:
    """The layer as something to share a latent.

    Args:
      affine: the layer.
      inputs_ee: sum [x; 1] [x; 1]^T.
    """
    q_enh = _by_head(affine)
    queries_nhh = np.einsum("enh,ef,fni->nhi", q_enh, inputs_ee, q_enh, optimize=True)
    out_nhd = affine.o.reshape(*q_enh.shape[1:], -1)
    return KeysAndValues(affine.k, affine.v, inputs_ee, queries_nhh, out_nhd, affine.turn)


def latent_layer(affine: AffineLayer, shared: SharedLatent) -> LatentLayer:
    """The layer with this latent."""
    return LatentLayer(
        np.einsum("enh,nhk->enk", _by_head(affine), shared.ask, optimize=True),
        shared.cached,
        shared.up,
    )


def _by_head(affine: AffineLayer) -> np.ndarray:
    heads = len(affine.turn)
    return affine.q.reshape(len(affine.q), heads, -1)
