"""The model as it was and after each approximation, to be measured one by one.

base     grouped attention with QK-norm
qk_norm  a linear map instead of the norm           `affine_attention`
rope     and rope on one virtual key head        a latent as wide as all it stands for
latent   and a latent of R numbers               the result
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ivx.conversion import affine_attention, convert
from ivx.conversion.method import Method
from ivx.conversion.one_layer import Fitted
from ivx.conversion.statistics import Statistics
from ivx.models.definition import ModelDefinition, Params
from ivx.models.model import VideoLanguageModel


class Step(NamedTuple):
    """A name, and `bind(weights)`, which gives the model of this step inside a jitted function."""

    name: str
    bind: Callable[[Any], VideoLanguageModel]
    weights: Any


def steps(
    definition: ModelDefinition,
    params: Params,
    fitted: list[Fitted],
    statistics: Statistics,
    method: Method,
    converted: Params,
    kind: str = "m2la",
) -> Iterator[Step]:
    """All four, made when they are asked for: the weights of one need not outlive its turn.

    Args:
      definition: of the model with grouped attention.
      params: its parameters.
      fitted: from `convert.without_norm`.
      statistics: of its calibration pass.
      method: as in `convert.convert`.
      converted: the parameters that the conversion gave.
      kind: its attention; `m2la_exact` has nothing between.
    """
    yield Step("base", definition.bind, params)
    text = definition.spec.text
    result = Step("latent", latent_definition(definition, text.kv_rank, kind).bind, converted)
    if kind == "m2la_exact":
        yield result
        return
    yield Step(
        "qk_norm",
        lambda weights: affine_attention.bind(definition, *weights),
        (params, affine_attention.maps(fitted)),
    )
    whole = latent_definition(definition, (2 * text.kv_heads - 1) * text.head_dim)
    wide = dataclasses.replace(method, mean_rank=0)
    yield Step(
        "rope", whole.bind, convert.to_latent(whole, params, fitted, statistics, wide).params
    )
    yield result


def latent_definition(
    definition: ModelDefinition, rank: int, kind: str = "m2la"
) -> ModelDefinition:
    """The same model with latent attention of this rank."""
    spec = definition.spec
    text = dataclasses.replace(spec.text, attention=kind, kv_rank=rank)
    return ModelDefinition(dataclasses.replace(spec, text=text))
