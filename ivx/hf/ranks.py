"""Latent ranks that differ between layers: all layers are held at the largest, padded with zeros.

    kv_a_proj   rows    [latent r | 0 | rope]    a latent padded with zeros
    kv_b_proj   columns [latent r | 0]           columns that multiply them

Padding does not change the model's outputs. The gradients and the decay of these zeros are zero, so
training preserves them, and an export detects and removes them.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ivx.hf import names
from ivx.models.definition import ModelDefinition, Params

# Axis of the latent in the form of the folder.
_LATENT_AXES = {
    "self_attn.kv_a_proj_with_mqa.weight": 0,
    "self_attn.kv_a_proj_with_mqa.bias": 0,
    "self_attn.kv_b_proj.weight": 1,
}


def layer_ranks(definition: ModelDefinition, params: Params) -> tuple[int, ...]:
    """The latent rank of each layer, without padding; () if all are equal.

    The largest rank is reported as that of the model, so that a reader gets a model of the same
    size.
    """
    text = definition.spec.text
    if text.attention == "gqa":
        return ()
    attention, layer_ranks = params["language_model"]["layers"]["self_attn"], []
    no_bias = np.zeros((text.depth, text.kv_rank))
    for layer in range(text.depth):
        down = np.asarray(attention["kv_a_proj"]["kernel"][layer])[:, : text.kv_rank]
        bias = np.asarray(attention["kv_a_proj"].get("bias", no_bias)[layer])[: text.kv_rank]
        up = np.asarray(attention["kv_b_proj"]["kernel"][layer])
        used = np.flatnonzero(down.any(0) | (bias != 0) | up.any(1))
        layer_ranks.append(int(used[-1]) + 1 if len(used) else 1)
    if len(set(layer_ranks)) == 1:
        return ()
    return tuple(text.kv_rank if rank == max(layer_ranks) else rank for rank in layer_ranks)


def of_layer(weight: names.Weight, latent_ranks: Sequence[int]) -> names.Weight:
    """The weight with the shape it has in a folder with these ranks; () means equal ranks."""
    axis, shape = _latent_axis(weight), list(weight.shape)
    if axis is not None and latent_ranks:
        shape[axis] -= max(latent_ranks) - latent_ranks[weight.layer]
    return dataclasses.replace(weight, shape=tuple(shape))


def views(
    weight: names.Weight, padded: np.ndarray, latent_ranks: Sequence[int]
) -> list[tuple[np.ndarray, int]]:
    """Views of `padded` that the tensor of a weight fills: (view, first row of the tensor).

    Args:
      weight: from `of_layer`.
      padded: the parameter in the form of the folder; its padding is set to zero.
      latent_ranks: as in `of_layer`.
    """
    if weight.shape == padded.shape:
        return [(padded, 0)]
    padded[...] = 0
    rank = latent_ranks[weight.layer]
    if _latent_axis(weight) == 1:
        return [(padded[:, :rank], 0)]
    return [(padded[:rank], 0), (padded[max(latent_ranks) :], rank)]


def without_padding(
    weight: names.Weight, padded: np.ndarray, latent_ranks: Sequence[int]
) -> np.ndarray:
    """The tensor of a weight, the inverse of `views`; arguments as there."""
    if weight.shape == padded.shape:
        return padded
    rank = latent_ranks[weight.layer]
    if _latent_axis(weight) == 1:
        return padded[:, :rank]
    return np.concatenate([padded[:rank], padded[max(latent_ranks) :]])


def _latent_axis(weight: names.Weight) -> int | None:
    return next((axis for end, axis in _LATENT_AXES.items() if weight.name.endswith(end)), None)
