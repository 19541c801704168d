"""The model before the conversion and after each approximation, to measure each one's cost.

base     grouped attention with QK-norm
qk_norm  affine maps instead of projection and QK-norm
rope     and rope on one virtual key head only      the latent has full rank
latent   and a latent of rank R                     the result

No checkpoint holds the `qk_norm` model; it exists only to be measured.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ivx.conversion import convert
from ivx.conversion.method import Method
from ivx.conversion.output_projection import Identity
from ivx.conversion.qk_norm import AffineMaps
from ivx.conversion.statistics import Statistics
from ivx.models.definition import ModelDefinition, Params
from ivx.models.model import VideoLanguageModel


class Step(NamedTuple):
    """A model; `bind(weights)` returns it inside a jitted function."""

    name: str
    bind: Callable[[Any], VideoLanguageModel]
    weights: Any


def steps(
    definition: ModelDefinition,
    params: Params,
    fitted: list[AffineMaps],
    statistics: Statistics,
    method: Method,
    converted: Params,
    kind: str = "m2la",
) -> Iterator[Step]:
    """Yields the four models, each created on demand so that its weights can be freed.

    Args:
      definition: the model with grouped attention.
      params: its parameters.
      fitted: from `convert.without_norm`.
      statistics: sums of its calibration pass.
      method: options, as in `convert.convert`.
      converted: parameters of the converted model.
      kind: its attention; `m2la_exact` has no intermediate models.
    """
    yield Step("base", definition.bind, params)
    text = definition.spec.text
    result = Step("latent", latent_definition(definition, text.kv_rank, kind).bind, converted)
    if kind == "m2la_exact":
        yield result
        return
    yield Step(
        "qk_norm",
        lambda weights: _bind_affine(definition, *weights),
        (params, _stack(fitted)),
    )
    full_rank = latent_definition(definition, (2 * text.kv_heads - 1) * text.head_dim)
    uniform = dataclasses.replace(method, mean_rank=0)
    yield Step(
        "rope",
        full_rank.bind,
        convert.to_latent(full_rank, params, fitted, statistics, uniform).params,
    )
    yield result


def latent_definition(
    definition: ModelDefinition, rank: int, kind: str = "m2la"
) -> ModelDefinition:
    """The same model with latent attention of this rank."""
    spec = definition.spec
    text = dataclasses.replace(spec.text, attention=kind, kv_rank=rank)
    return ModelDefinition(dataclasses.replace(spec, text=text))


def _stack(fitted: list[AffineMaps]) -> dict[str, np.ndarray]:
    """The maps of all layers stacked, float32 [L, E, ...]."""
    return {
        name: np.stack([getattr(maps, name) for maps in fitted]).astype(np.float32)
        for name in ("q", "k")
    }


def _bind_affine(
    definition: ModelDefinition, params: Params, maps: dict[str, Array]
) -> VideoLanguageModel:
    """The model with grouped attention whose queries and keys are these maps of x."""
    model = definition.bind(params)
    attention = model.language_model.layers.self_attn
    attention.q_proj, attention.k_proj = _Affine(maps["q"]), _Affine(maps["k"])
    attention.q_norm, attention.k_norm = Identity(), Identity()
    return model


class _Affine(nnx.Module):
    """y = V [x; 1]."""

    def __init__(self, map_leo: Float[Array, "l e o"]) -> None:
        self.map = nnx.Param(map_leo)

    def __call__(self, x_btd: Float[Array, "b t d"]) -> Float[Array, "b t o"]:
        map_eo = self.map[...].astype(x_btd.dtype)
        return x_btd @ map_eo[:-1] + map_eo[-1]
