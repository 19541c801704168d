"""The model with its QK-norm replaced by the affine fit, to see what that step alone costs.

It exists for measuring: no checkpoint has this form.
"""

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ivx.conversion.one_layer import Fitted
from ivx.models.definition import ModelDefinition, Params
from ivx.models.model import VideoLanguageModel


def maps(fitted: list[Fitted]) -> dict[str, np.ndarray]:
    """The fits of all layers stacked, float32 [L, E, ...]."""
    return {
        name: np.stack([getattr(layer, name) for layer in fitted]).astype(np.float32)
        for name in ("q", "k")
    }


def bind(definition: ModelDefinition, params: Params, maps: dict[str, Array]) -> VideoLanguageModel:
    """The model with grouped attention whose queries and keys are these maps of x, nothing more."""
    model = definition.bind(params)
    attention = model.language_model.layers.self_attn
    attention.q_proj, attention.k_proj = _Affine(maps["q"]), _Affine(maps["k"])
    attention.q_norm, attention.k_norm = _Nothing(), _Nothing()
    return model


class _Affine(nnx.Module):
    """y = V [x; 1]."""

    def __init__(self, map_leo: Float[Array, "l e o"]):
        self.map = nnx.Param(map_leo)

    def __call__(self, x_btd: Float[Array, "b t d"]) -> Float[Array, "b t o"]:
        map_eo = self.map[...].astype(x_btd.dtype)
        return x_btd @ map_eo[:-1] + map_eo[-1]


class _Nothing(nnx.Module):
    """Where a norm was."""

    def __call__(self, x: Array) -> Array:
        return x
