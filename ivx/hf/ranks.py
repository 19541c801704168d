"""Layers whose latents are not equally wide: all are held as the widest, filled up with zeros.

    kv_a_proj   rows    [latent r | 0 | rope]    a latent with zeros behind it
    kv_b_proj   columns [latent r | 0]           which nothing reads

The model computes what it computed before. Gradients of these zeros are zero, and so is the decay
of a zero: training leaves them alone, and an export finds them and leaves them out.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ivx.hf import names
from ivx.models.definition import ModelDefinition, Params

# Axis of the latent in the folder's form.
_AXES = {
    "self_attn.kv_a_proj_with_mqa.weight": 0,
    "self_attn.kv_a_proj_with_mqa.bias": 0,
    "self_attn.kv_b_proj.weight": 1,
}


def found(definition: ModelDefinition, params: Params) -> tuple[int, ...]:
    """Ranks of the layers, without the zeros behind their latents; () if they are equal.

    The widest are called as wide as the model is, so that a model of the same sizes is read again.
    """
    text = definition.spec.text
    if text.attention == "gqa":
        return ()
    attention, widths = params["language_model"]["layers"]["self_attn"], []
    none = np.zeros((text.depth, text.kv_rank))
    for layer in range(text.depth):
        down = np.asarray(attention["kv_a_proj"]["kernel"][layer])[:, : text.kv_rank]
        bias = np.asarray(attention["kv_a_proj"].get("bias", none)[layer])[: text.kv_rank]
        up = np.asarray(attention["kv_b_proj"]["kernel"][layer])
        used = np.flatnonzero(down.any(0) | (bias != 0) | up.any(1))
        widths.append(int(used[-1]) + 1 if len(used) else 1)
    if len(set(widths)) == 1:
        return ()
    return tuple(text.kv_rank if width == max(widths) else width for width in widths)


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


def cut(weight: names.Weight, whole: np.ndarray, latent_ranks: Sequence[int]) -> np.ndarray:
    """The tensor of a weight out of its place: `rooms` the other way round.

    Args:
      weight: from `of_layer`.
      whole: its place, in the folder's form.
      latent_ranks: as in `of_layer`.
    """
    if weight.shape == whole.shape:
        return whole
    rank = latent_ranks[weight.layer]
    if _axis(weight) == 1:
        return whole[:, :rank]
    return np.concatenate([whole[:rank], whole[max(latent_ranks) :]])


def _axis(weight: names.Weight) -> int | None:
    return next((axis for end, axis in _AXES.items() if weight.name.endswith(end)), None)
