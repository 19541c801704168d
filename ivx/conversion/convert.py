"""A whole model from grouped attention with QK-norm to latent attention.

    without_norm  every layer's queries and keys fitted as affine maps      (qk_norm)
    to_latent     every layer in the released parameterization              (latent_layer)

Everything that is not attention, and o_proj, is handed over bit for bit.
"""

import dataclasses

import jax
import numpy as np

from ivx.conversion import qk_norm
from ivx.conversion.latent_layer import AffineLayer, LatentLayer, latent_layer
from ivx.conversion.statistics import Statistics
from ivx.errors import UserError
from ivx.models.definition import ModelDefinition, Params


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """What one layer lost.

    Attributes:
      query_error: relative error of the affine fit of the queries.
      key_error: of the keys.
      rope_energy: share of the keys' energy in the head that keeps its rope.
      latent_energy: share of the energy of balanced keys and values that the latent keeps.
      balance_ratio: what keys were divided by before they were compressed.
    """

    query_error: float
    key_error: float
    rope_energy: float
    latent_energy: float
    balance_ratio: float


@dataclasses.dataclass(frozen=True)
class Converted:
    """Parameters of the model with latent attention, new ones numpy float32, and a row a layer."""

    params: Params
    report: tuple[LayerReport, ...]


def convert(
    definition: ModelDefinition,
    params: Params,
    statistics: Statistics,
    ridge: float,
    balance: float,
    kind: str = "real",
) -> Converted:
    """Converts a model.

    Args:
      definition: of the model with grouped attention; its kv_rank is R.
      params: its parameters.
      statistics: of its calibration pass.
      ridge: of the QK-norm fit, as a share of the mean diagonal.
      balance: weight of keys against values in the compression.
      kind: of the rotation, real or complex.

    Raises:
      UserError: the model has no grouped attention, the fit is open, or the rank is too large.
    """
    fitted = without_norm(definition, params, statistics, ridge)
    return to_latent(definition, params, fitted, statistics, balance, kind)


def without_norm(
    definition: ModelDefinition, params: Params, statistics: Statistics, ridge: float
) -> list[AffineLayer]:
    """Every layer with its QK-norm fitted away.

    Raises:
      UserError: the model has no grouped attention, or the fit is open.
    """
    text = definition.spec.text
    if text.attention != "gqa":
        raise UserError(
            f"a model with attention {text.attention} has no QK-norm to fit; take one with gqa"
        )
    layers = []
    for number in range(text.depth):
        layer = _layer(params, number)
        q, k = (
            qk_norm.fit(
                layer[f"{name}_proj"]["kernel"],
                layer[f"{name}_norm"]["scale"],
                statistics.inputs[number],
                outputs[number],
                ridge,
            )
            for name, outputs in (("q", statistics.queries), ("k", statistics.keys))
        )
        layers.append(AffineLayer(q, k, np.pad(layer["v_proj"]["kernel"], [(0, 1), (0, 0)])))
    return layers


def to_latent(
    definition: ModelDefinition,
    params: Params,
    fitted: list[AffineLayer],
    statistics: Statistics,
    balance: float,
    kind: str = "real",
) -> Converted:
    """The model with latent attention, from layers without QK-norm.

    Raises:
      UserError: the rank is larger than keys and values together.
    """
    kernels, report = [], []
    for number, affine in enumerate(fitted):
        latent = latent_layer(
            definition.spec.text, affine, statistics.inputs[number], balance, kind
        )
        kernels.append(_kernels(latent))
        query_error, key_error = (
            qk_norm.relative_error(
                map_eo, statistics.inputs[number], outputs[number], energy[number]
            )
            for map_eo, outputs, energy in (
                (affine.q, statistics.queries, statistics.query_energy),
                (affine.k, statistics.keys, statistics.key_energy),
            )
        )
        report.append(
            LayerReport(
                query_error,
                key_error,
                latent.rope_energy,
                latent.latent_energy,
                latent.balance_ratio,
            )
        )
    attention = jax.tree.map(lambda *parts: np.stack(parts), *kernels)
    attention["o_proj"] = _attention(params)["o_proj"]
    decoder = params["language_model"]
    layers = decoder["layers"] | {"self_attn": attention}
    return Converted(params | {"language_model": decoder | {"layers": layers}}, tuple(report))


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
    return jax.tree.map(lambda a: a.astype(np.float32), named)
