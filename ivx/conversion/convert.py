"""A whole model from grouped attention with QK-norm to latent attention.

    without_norm  every layer's queries and keys as maps of its input       (affine, fold)
    to_latent     every layer in the released parameterization              (latent_layer)
    to_exact      or with norm and rope as they were                        (exact_layer)

Everything that is not attention, and o_proj, is handed over bit for bit.
"""

import dataclasses

import jax
import numpy as np

from ivx.conversion import affine, exact_layer, fold, shared_latent
from ivx.conversion.latent_layer import AffineLayer, LatentLayer, keys_and_values, latent_layer
from ivx.conversion.method import Method
from ivx.conversion.shared_latent import SharedLatent
from ivx.conversion.statistics import Statistics
from ivx.errors import UserError
from ivx.models.definition import ModelDefinition, Params


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """What one layer lost.

    Attributes:
      query_error: relative error of the queries without their norm.
      key_error: of the keys.
      rope_energy: share of the keys' energy in the head that keeps its rope.
      latent_energy: share of the energy of weighted keys and values that the latent keeps.
      balance_ratio: what keys were divided by before they were compressed.
      rank: how many numbers of the latent are used.
    """

    query_error: float
    key_error: float
    rope_energy: float
    latent_energy: float
    balance_ratio: float
    rank: int


@dataclasses.dataclass(frozen=True)
class Converted:
    """Parameters of the model with latent attention, new ones numpy float32, and a row a layer."""

    params: Params
    report: tuple[LayerReport, ...]


def convert(
    definition: ModelDefinition, params: Params, statistics: Statistics, method: Method
) -> Converted:
    """Converts a model.

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


def to_exact(
    definition: ModelDefinition, params: Params, statistics: Statistics, method: Method
) -> Converted:
    """The model with `m2la_exact` attention; of the method only the weighting matters.

    Raises:
      UserError: the model has no grouped attention, or the rank is too large.
    """
    _check_grouped(definition)
    layers = [
        exact_layer.keys_and_values(cached_oo, queries_nhh, _layer(params, number)["o_proj"])
        for number, (cached_oo, queries_nhh) in enumerate(
            zip(statistics.cached, statistics.roped_queries, strict=True)
        )
    ]
    found = shared_latent.compress_all(layers, method, definition.spec.text.kv_rank)
    kernels = [
        _float32(exact_layer.kernels(_layer(params, number), shared))
        for number, shared in enumerate(found)
    ]
    return _converted(params, kernels, [_report(0.0, 0.0, shared) for shared in found])


def without_norm(
    definition: ModelDefinition, params: Params, statistics: Statistics, method: Method
) -> list[AffineLayer]:
    """Every layer with its QK-norm replaced by a linear map.

    Raises:
      UserError: the model has no grouped attention, or the fit is open.
    """
    _check_grouped(definition)
    layers = []
    for number in range(definition.spec.text.depth):
        layer = _layer(params, number)
        q, k = (
            _linear(
                method,
                layer[f"{name}_proj"]["kernel"],
                layer[f"{name}_norm"]["scale"],
                statistics.inputs[number],
                outputs[number],
            )
            for name, outputs in (("q", statistics.queries), ("k", statistics.keys))
        )
        v = np.pad(layer["v_proj"]["kernel"], [(0, 1), (0, 0)])
        turn = _turn(method, statistics, number)
        layers.append(AffineLayer(q, k, v, layer["o_proj"]["kernel"], turn))
    return layers


def to_latent(
    definition: ModelDefinition,
    params: Params,
    fitted: list[AffineLayer],
    statistics: Statistics,
    method: Method,
) -> Converted:
    """The model with latent attention, from layers without QK-norm.

    Raises:
      UserError: the rank is larger than keys and values together.
    """
    kernels, report = [], []
    whole = [
        keys_and_values(layer, inputs_ee)
        for layer, inputs_ee in zip(fitted, statistics.inputs, strict=True)
    ]
    found = shared_latent.compress_all(whole, method, definition.spec.text.kv_rank)
    for number, (layer, shared) in enumerate(zip(fitted, found, strict=True)):
        kernels.append(_kernels(latent_layer(layer, shared)))
        query_error, key_error = (
            affine.relative_error(
                map_eo, statistics.inputs[number], outputs[number], energy[number]
            )
            for map_eo, outputs, energy in (
                (layer.q, statistics.queries, statistics.query_energy),
                (layer.k, statistics.keys, statistics.key_energy),
            )
        )
        report.append(_report(query_error, key_error, shared))
    return _converted(params, kernels, report)


def _report(query_error: float, key_error: float, shared: SharedLatent) -> LayerReport:
    return LayerReport(
        query_error,
        key_error,
        shared.rope_energy,
        shared.latent_energy,
        shared.ratio,
        shared.rank,
    )


def _converted(params: Params, kernels: list[Params], report: list[LayerReport]) -> Converted:
    """The model with these layers, o_proj and all else as they were."""
    attention = jax.tree.map(lambda *parts: np.stack(parts), *kernels)
    attention["o_proj"] = _attention(params)["o_proj"]
    decoder = params["language_model"]
    layers = decoder["layers"] | {"self_attn": attention}
    return Converted(params | {"language_model": decoder | {"layers": layers}}, tuple(report))


def _check_grouped(definition: ModelDefinition) -> None:
    attention = definition.spec.text.attention
    if attention != "gqa":
        raise UserError(
            f"a model with attention {attention} has no QK-norm to fit; take one with gqa"
        )


def _linear(
    method: Method,
    kernel_do: np.ndarray,
    scale_h: np.ndarray,
    inputs_ee: np.ndarray,
    outputs_eo: np.ndarray,
) -> np.ndarray:
    """A projection and its norm as one map, float64 [E, O]."""
    if method.norm == "affine":
        return affine.fit(kernel_do, scale_h, inputs_ee, outputs_eo, method.ridge)
    if method.norm == "fold":
        return fold.fold(kernel_do, scale_h, inputs_ee, outputs_eo)
    return fold.drop(kernel_do, scale_h)


def _turn(method: Method, statistics: Statistics, number: int) -> np.ndarray:
    """What stands for the rope that is lost, complex [N, H / 2]."""
    real, imaginary = statistics.turns[number] / statistics.tokens
    return real + 1j * imaginary if method.turn == "mean" else np.ones_like(real) + 0j


def _attention(params: Params) -> Params:
    """Parameters of all layers' attention, stacked."""
    return params["language_model"]["layers"]["self_attn"]


def _layer(params: Params, number: int) -> Params:
    """Parameters of one layer's attention, float64 on the host."""
    return jax.tree.map(lambda a: np.asarray(a[number], np.float64), _attention(params))


def _kernels(latent: LatentLayer) -> Params:
    """The layer as parameters of `ivx.models.latent_attention`, float32."""
    q_ek = latent.q.reshape(len(latent.q), -1)
    named = {
        "q_proj": {"kernel": q_ek[:-1], "bias": q_ek[-1]},
        "kv_a_proj": {"kernel": latent.kv_a[:-1], "bias": latent.kv_a[-1]},
        "kv_b_proj": {"kernel": latent.kv_b.reshape(len(latent.kv_b), -1)},
    }
    return _float32(named)


def _float32(kernels: Params) -> Params:
    return jax.tree.map(lambda a: a.astype(np.float32), kernels)
