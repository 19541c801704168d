"""One layer in either latent parameterization; both use `ivx.conversion.shared_latent`.

`m2la`, the released one. Its features are [x; 1], so projections must be affine in x:

    q_proj  W_q query          kv_a_proj  cached          kv_b_proj  up

`m2la_exact` (`ivx.models.exact_latent_attention`), whose cache projects the cache of the source.
Its features are [rope(norm(k)); v], all that grouped attention caches of a token. Queries are
normed and rotated too, so a score

    score = sum over pairs of Re conj(q_j e^{i a_q}) k_j e^{i a_k}

is an inner product of the two and contains no angle. Rope need not be gathered: virtual head 0 is
merely the part of the cache that values do not use, and `shared_latent` applies with the moments of
rotated keys. The rank of the latent is the only approximation.

Shapes: E = D + 1, O = K * H; P = H. All float64.
"""

from typing import NamedTuple

import numpy as np

from ivx.conversion.shared_latent import KeysAndValues, SharedLatent
from ivx.models.definition import Params


class AffineLayer(NamedTuple):
    """Projections without QK-norm, biases in the last row: q [E, N * H], k and v [E, O].

    `o` is o_proj, [N * H, D]; `mean_rotation` is that of `KeysAndValues`.
    """

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    o: np.ndarray
    mean_rotation: np.ndarray


class LatentLayer(NamedTuple):
    """Projections of M2LA: q [E, N, H + P], kv_a [E, R + P], kv_b [R, N, H + H]."""

    q: np.ndarray
    kv_a: np.ndarray
    kv_b: np.ndarray


def keys_and_values(affine: AffineLayer, inputs_ee: np.ndarray) -> KeysAndValues:
    """The keys and values of a layer for `m2la`.

    Args:
      affine: the layer.
      inputs_ee: sum [x; 1] [x; 1]^T.
    """
    q_enh = _by_head(affine)
    queries_nhh = np.einsum("enh,ef,fni->nhi", q_enh, inputs_ee, q_enh, optimize=True)
    out_nhd = affine.o.reshape(*q_enh.shape[1:], -1)
    return KeysAndValues(affine.k, affine.v, inputs_ee, queries_nhh, out_nhd, affine.mean_rotation)


def latent_layer(affine: AffineLayer, shared: SharedLatent) -> LatentLayer:
    """The `m2la` layer with this latent."""
    return LatentLayer(
        np.einsum("enh,nhk->enk", _by_head(affine), shared.query, optimize=True),
        shared.cached,
        shared.up,
    )


def kernels(latent: LatentLayer) -> Params:
    """The parameters of the `m2la` layer, of `ivx.models.latent_attention`."""
    q_ek = latent.q.reshape(len(latent.q), -1)
    return {
        "q_proj": {"kernel": q_ek[:-1], "bias": q_ek[-1]},
        "kv_a_proj": {"kernel": latent.kv_a[:-1], "bias": latent.kv_a[-1]},
        "kv_b_proj": {"kernel": latent.kv_b.reshape(len(latent.kv_b), -1)},
    }


def exact_keys_and_values(
    cached_oo: np.ndarray, queries_nhh: np.ndarray, o_proj: Params
) -> KeysAndValues:
    """The keys and values of a layer for `m2la_exact`.

    Args:
      cached_oo: sum [k; v] [k; v]^T of normed, rotated keys and values, [2 O, 2 O].
      queries_nhh: sum q q^T of normed, rotated queries by heads.
      o_proj: with its kernel, [N * H, D].
    """
    heads, width = queries_nhh.shape[:2]
    size = len(cached_oo) // 2
    identity = np.eye(2 * size)
    out_nhd = o_proj["kernel"].reshape(heads, width, -1)
    no_rotation = np.ones((heads, width // 2), complex)
    return KeysAndValues(
        identity[:, :size], identity[:, size:], cached_oo, queries_nhh, out_nhd, no_rotation
    )


def exact_kernels(source: Params, shared: SharedLatent) -> Params:
    """The parameters of the `m2la_exact` layer.

    Args:
      source: parameters of the grouped attention, float64.
      shared: from `exact_keys_and_values` of the same layer.
    """
    width = source["q_norm"]["scale"].shape[0]
    kept = {name: source[name] for name in ("q_proj", "k_proj", "v_proj", "q_norm", "k_norm")}
    return kept | {
        "kv_a_proj": {"kernel": shared.cached},
        "kv_b_proj": {"kernel": shared.up.reshape(len(shared.up), -1)},
        # The module scales its queries itself.
        "q_rope_proj": {"kernel": shared.query[..., width:] / np.sqrt(2)},
    }


def _by_head(affine: AffineLayer) -> np.ndarray:
    heads = len(affine.mean_rotation)
    return affine.q.reshape(len(affine.q), heads, -1)
