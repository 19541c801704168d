"""Layers whose latents are not equally wide: all are held as the widest, filled up with zeros.

    kv_a_proj   rows    [latent r | 0 | rope]    a latent with zeros behind it
    kv_b_proj   columns [latent r | 0]           which nothing reads

The model computes what it computed before. Gradients of these zeros are zero, and so is the decay
of a zero: training leaves them alone.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ivx.hf import names

# Axis of the latent in the folder's form.
_AXES = {
    "self_attn.kv_a_proj_with_mqa.weight": 0,
    "self_attn.kv_a_proj_with_mqa.bias": 0,
    "self_attn.kv_b_proj.weight": 1,
}


def of_layer(weight: names.Weight, latent_ranks: Sequence[int]) -> names.Weight:
    """The weight as it lies in a folder whose layers have these ranks; () if they are equal."""
    axis, shape = _axis(weight), list(weight.shape)
    if axis is not None and latent_ranks:
        shape[axis] -= max(latent_ranks) - latent_ranks[weight.layer]
    return dataclasses.replace(weight, shape=tuple(shape))


def rooms(
    weight: names.Weight, whole: np.ndarray, latent_ranks: Sequence[int]
) -> list[tuple[np.ndarray, int]]:
    """Where the tensor of a weight goes: (view, first row of the tensor that belongs there).

    Args:
      weight: from `of_layer`.
      whole: its place, in the folder's form; what the tensor does not fill is set to zero.
      latent_ranks: as in `of_layer`.
    """
    if weight.shape == whole.shape:
        return [(whole, 0)]
    whole[...] = 0
    rank = latent_ranks[weight.layer]
    if _axis(weight) == 1:
        return [(whole[:, :rank], 0)]
    return [(whole[:rank], 0), (whole[max(latent_ranks) :], rank)]


def _axis(weight: names.Weight) -> int | None:
    return next((axis for end, axis in _AXES.items() if weight.name.endswith(end)), None)
