"""A whole model from grouped attention with QK-norm to latent attention.

    without_norm  every layer's queries and keys as maps of its input       (affine, fold)
    to_latent     every layer in the released parameterization              (latent_layer)
    to_exact      or with norm and rope as they were                        (exact_layer)

Everything that is not attention, and o_proj, is handed over bit for bit.
"""

import dataclasses

import jax
import numpy as np

from ivx.conversion import one_layer, ranks, shared_latent
from ivx.conversion.method import Method
from ivx.conversion.one_layer import Fitted, LayerReport, Sums
from ivx.conversion.statistics import Statistics
from ivx.errors import UserError
from ivx.models.definition import ModelDefinition, Params


@dataclasses.dataclass(frozen=True)
class Converted:
    """Parameters of the model with latent attention, new ones numpy float32, and a row a layer."""

    params: Params
    report: tuple[LayerReport, ...]


def convert(
    definition: ModelDefinition, params: Params, statistics: Statistics, method: Method
) -> Converted:
    """Converts a model to M2LA.

    Args:
      definition: of the model with grouped attention; its kv_rank is R.
      params: its parameters.
      statistics: of its calibration pass.
      method: how.

    Raises:
      UserError: the model has no grouped attention, the fit is open, or the rank is too large.
    """
    fitted = without_norm(definition, params, statistics, method)
    return to_latent(definition, params, fitted, statistics, method)


def without_norm(
    definition: ModelDefinition, params: Params, statistics: Statistics, method: Method
) -> list[Fitted]:
    """Every layer with its QK-norm replaced by a linear map.

    Raises:
      UserError: the model has no grouped attention, or the fit is open.
    """
    _check_grouped(definition)
    return [
        one_layer.fit(one_layer.parameters(params, number), Sums(statistics, number), method)
        for number in range(definition.spec.text.depth)
    ]


def to_latent(
    definition: ModelDefinition,
    params: Params,
    fitted: list[Fitted],
    statistics: Statistics,
    method: Method,
) -> Converted:
    """The model with latent attention, from layers without QK-norm.

    Raises:
      UserError: the rank is larger than keys and values together.
    """
    return _layers(definition, params, statistics, method, "m2la", fitted)


def to_exact(
    definition: ModelDefinition, params: Params, statistics: Statistics, method: Method
) -> Converted:
    """The model with `m2la_exact` attention; of the method only the weighting matters.

    Raises:
      UserError: the model has no grouped attention, or the rank is too large.
    """
    _check_grouped(definition)
    nothing = [None] * definition.spec.text.depth
    return _layers(definition, params, statistics, method, "m2la_exact", nothing)


def with_attention(params: Params, attention: Params, report: list[LayerReport]) -> Converted:
    """The model with this attention of all layers, all else as it was."""
    decoder = params["language_model"]
    layers = decoder["layers"] | {"self_attn": attention}
    return Converted(params | {"language_model": decoder | {"layers": layers}}, tuple(report))


def put(attention: Params, kernels: Params, number: int) -> None:
    """Writes the parameters of one layer into those of all."""
    for name, values in kernels.items():
        for leaf, array in values.items():
            attention[name][leaf][number] = array


def _layers(
    definition: ModelDefinition,
    params: Params,
    statistics: Statistics,
    method: Method,
    kind: str,
    fitted: list[Fitted | None],
) -> Converted:
    """All layers, one after another."""
    text, report, attention = definition.spec.text, [], {}
    for number, own in enumerate(_ranks(definition, params, statistics, method, kind, fitted)):
        source = one_layer.parameters(params, number)
        kernels, row = one_layer.convert(
            source, Sums(statistics, number), method, kind, own, text.kv_rank, fitted[number]
        )
        if not attention:
            attention = jax.tree.map(
                lambda a: np.empty((text.depth, *a.shape), np.float32), kernels
            )
        put(attention, kernels, number)
        report.append(row)
    attention["o_proj"] = params["language_model"]["layers"]["self_attn"]["o_proj"]
    return with_attention(params, attention, report)


def _ranks(
    definition: ModelDefinition,
    params: Params,
    statistics: Statistics,
    method: Method,
    kind: str,
    fitted: list[Fitted | None],
) -> tuple[int, ...]:
    """Numbers of each layer's latent that are used."""
    text = definition.spec.text
    if not method.mean_rank:
        return (text.kv_rank,) * text.depth
    spectra = []
    for number in range(text.depth):
        source = one_layer.parameters(params, number)
        _, parts = one_layer.whole(source, Sums(statistics, number), method, kind, fitted[number])
        spectra.append(shared_latent.spectrum(parts, method))
    return ranks.allot(spectra, method.mean_rank, text.kv_rank)


def _check_grouped(definition: ModelDefinition) -> None:
    attention = definition.spec.text.attention
    if attention != "gqa":
        raise UserError(
            f"a model with attention {attention} has no QK-norm to fit; take one with gqa"
        )
