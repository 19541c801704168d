"""One layer in the released parameterization, from projections that are affine in x.

    k' = U k                     U is orthogonal and commutes with rope: every score stays
    k'(head 0) keeps its rope    the other virtual heads lose theirs
    latent = down^T [k'(others); v],   [k'(others); v] ~ up latent

    q_proj     head n: s [q_n | U_0 q_n]         s = sqrt((H + P) / H) undoes the new scale
    kv_a_proj  [down^T [k'(others); v] | k'(head 0)]
    kv_b_proj  head n: [U_others^T up_k | up_v]

U_0 and U_others are the rows of U for virtual head 0 and for the others, in the columns of the
key-value head that query head n shares.

Shapes: E = D + 1, O = K * H, M = (K - 1) * H + K * H; P = H. All float64.
"""

from typing import NamedTuple

import einops
import numpy as np

from ivx.conversion import compression, rotation
from ivx.models.spec import TextSpec


class AffineLayer(NamedTuple):
    """Projections without QK-norm, biases in the last row: q [E, N * H], k and v [E, O]."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray


class LatentLayer(NamedTuple):
    """Projections of latent attention, and what was lost on the way.

    Attributes:
      q: [E, N, H + P], without rope and with.
      kv_a: [E, R + P].
      kv_b: [R, N, H + H], keys and values.
      rope_energy: share of the keys' energy in the head that keeps its rope.
      latent_energy: share of the energy of balanced keys and values that the latent keeps.
      balance_ratio: what keys were divided by before they were compressed.
    """

    q: np.ndarray
    kv_a: np.ndarray
    kv_b: np.ndarray
    rope_energy: float
    latent_energy: float
    balance_ratio: float


def latent_layer(
    spec: TextSpec,
    affine: AffineLayer,
    inputs_ee: np.ndarray,
    balance: float,
    kind: str = "real",
) -> LatentLayer:
    """Gathers rope in one head and compresses the rest.

    Args:
      spec: sizes; kv_rank is R.
      affine: the layer.
      inputs_ee: sum [x; 1] [x; 1]^T.
      balance: weight of keys against values in the compression.
      kind: of the rotation, real or complex.

    Raises:
      UserError: the rank is larger than keys and values together.
    """
    width, group = spec.head_dim, spec.heads // spec.kv_heads
    moment_oo = affine.k.T @ inputs_ee @ affine.k
    rotation_oo = rotation.gather(moment_oo, spec.kv_heads, kind)
    rotated_eo = affine.k @ rotation_oo.T
    roped_ep, others_eo = rotated_eo[:, :width], rotated_eo[:, width:]
    key_energy = np.trace(moment_oo)
    roped_energy = np.vdot(roped_ep, inputs_ee @ roped_ep)

    kept_em = np.hstack([others_eo, affine.v])
    nope = others_eo.shape[1]
    latent = compression.compress(
        kept_em.T @ inputs_ee @ kept_em, nope, key_energy, spec.kv_rank, balance
    )

    # Columns of U by key-value head, handed to the query heads that share it.
    rotation_onh = np.repeat(rotation_oo.reshape(len(rotation_oo), -1, width), group, 1)
    q_enh = einops.rearrange(affine.q, "e (n h) -> e n h", h=width)
    q_rope_enp = np.einsum("enh,pnh->enp", q_enh, rotation_onh[:width])
    key_rnh = np.einsum("or,onh->rnh", latent.up[:nope], rotation_onh[width:])
    value_rkh = einops.rearrange(latent.up[nope:], "(k h) r -> r k h", h=width)
    return LatentLayer(
        q=np.sqrt(2.0) * np.concatenate([q_enh, q_rope_enp], -1),
        kv_a=np.hstack([kept_em @ latent.down, roped_ep]),
        kv_b=np.concatenate([key_rnh, np.repeat(value_rkh, group, 1)], -1),
        rope_energy=float(roped_energy / key_energy) if key_energy > 0 else 1.0,
        latent_energy=latent.kept,
        balance_ratio=latent.ratio,
    )
