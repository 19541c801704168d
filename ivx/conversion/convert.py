"""Converts all layers of a model from one pass.

    without_norm  queries and keys of every layer as affine maps of its input     (qk_norm)
    to_latent     every layer as M2LA                                             (latent_layer)
    to_exact      every layer as m2la_exact, which keeps norm and rope            (latent_layer)

All other parameters, o_proj included, are copied bit for bit.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from ivx import progress
from ivx.conversion import compression, layer, shared_latent
from ivx.conversion.layer import LayerReport, Sums
from ivx.conversion.method import Method
from ivx.conversion.qk_norm import AffineMaps
from ivx.conversion.statistics import Statistics
from ivx.errors import UserError
from ivx.models.definition import ModelDefinition, Params


@dataclasses.dataclass(frozen=True)
class Converted:
    """Parameters of the model with latent attention, and a report for each layer.

    New parameters are numpy float32.
    """

    params: Params
    report: tuple[LayerReport, ...]


def convert(
    definition: ModelDefinition, params: Params, statistics: Statistics, method: Method
) -> Converted:
    """Converts a model to M2LA.

    Args:
      definition: the model with grouped attention; its kv_rank is R.
      params: its parameters.
      statistics: sums of its calibration pass.
      method: options.

    Raises:
      UserError: the model has no grouped attention, the fit is singular, or the rank is too large.
    """
    fitted = without_norm(definition, params, statistics, method)
    return to_latent(definition, params, fitted, statistics, method)


def without_norm(
    definition: ModelDefinition, params: Params, statistics: Statistics, method: Method
) -> list[AffineMaps]:
    """Every layer's queries and keys as linear maps, without QK-norm.

    Raises:
      UserError: the model has no grouped attention, or the fit is singular.
    """
    _check_grouped(definition)
    return [
        layer.fit(layer.parameters(params, index), Sums(statistics, index), method)
        for index in _layers(definition, "fitting queries and keys")
    ]


def to_latent(
    definition: ModelDefinition,
    params: Params,
    fitted: list[AffineMaps],
    statistics: Statistics,
    method: Method,
) -> Converted:
    """The model with M2LA, from the maps of `without_norm`.

    Raises:
      UserError: the rank is larger than keys and values together.
    """
    return _convert_layers(definition, params, statistics, method, "m2la", fitted)


def to_exact(
    definition: ModelDefinition, params: Params, statistics: Statistics, method: Method
) -> Converted:
    """The model with `m2la_exact`; of the options only the weighting matters.

    Raises:
      UserError: the model has no grouped attention, or the rank is too large.
    """
    _check_grouped(definition)
    no_maps = [None] * definition.spec.text.depth
    return _convert_layers(definition, params, statistics, method, "m2la_exact", no_maps)


def with_attention(params: Params, attention: Params, report: list[LayerReport]) -> Converted:
    """The model with the stacked attention parameters of all layers replaced."""
    decoder = params["language_model"]
    layers = decoder["layers"] | {"self_attn": attention}
    return Converted(params | {"language_model": decoder | {"layers": layers}}, tuple(report))


def write_layer(attention: Params, kernels: Params, index: int) -> None:
    """Writes the parameters of one layer into the stacked parameters, in place."""
    for name, values in kernels.items():
        for leaf, array in values.items():
            attention[name][leaf][index] = array


def _convert_layers(
    definition: ModelDefinition,
    params: Params,
    statistics: Statistics,
    method: Method,
    kind: str,
    fitted: Sequence[AffineMaps | None],
) -> Converted:
    """Converts one layer after another."""
    text, report, attention = definition.spec.text, [], {}
    layer_ranks = _ranks(definition, params, statistics, method, kind, fitted)
    for index in _layers(definition, "converting layers"):
        rank = layer_ranks[index]
        source = layer.parameters(params, index)
        kernels, layer_report = layer.convert(
            source, Sums(statistics, index), method, kind, rank, text.kv_rank, fitted[index]
        )
        if not attention:
            attention = jax.tree.map(
                lambda a: np.empty((text.depth, *a.shape), np.float32), kernels
            )
        write_layer(attention, kernels, index)
        report.append(layer_report)
    attention["o_proj"] = params["language_model"]["layers"]["self_attn"]["o_proj"]
    return with_attention(params, attention, report)


def _ranks(
    definition: ModelDefinition,
    params: Params,
    statistics: Statistics,
    method: Method,
    kind: str,
    fitted: Sequence[AffineMaps | None],
) -> tuple[int, ...]:
    """The latent rank of each layer."""
    text = definition.spec.text
    if not method.mean_rank:
        return (text.kv_rank,) * text.depth
    spectra = []
    for index in _layers(definition, "choosing ranks"):
        source, sums = layer.parameters(params, index), Sums(statistics, index)
        _, features = layer.keys_and_values(source, sums, method, kind, fitted[index])
        spectra.append(shared_latent.spectrum(features, method))
    return compression.allocate_ranks(spectra, method.mean_rank, text.kv_rank)


def _layers(definition: ModelDefinition, what: str) -> Iterator[int]:
    """The indices of all layers, counted by a progress bar."""
    depth = definition.spec.text.depth
    return progress.track(range(depth), depth, what, "layers")


def _check_grouped(definition: ModelDefinition) -> None:
    attention = definition.spec.text.attention
    if attention != "gqa":
        raise UserError(
            f"a model with attention {attention} has no QK-norm to convert; give one with gqa"
        )
