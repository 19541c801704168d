"""Converts one layer of grouped attention to either latent attention, from the sums of a pass.

The matrices of a layer are created when it is converted and released afterwards: at 8B the float64
matrices of one layer take 1 GB, and those of all layers exceed the memory of a host.
"""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from ivx.conversion import latent_layer, qk_norm, shared_latent
from ivx.conversion.latent_layer import AffineLayer
from ivx.conversion.method import Method
from ivx.conversion.qk_norm import AffineMaps
from ivx.conversion.shared_latent import KeysAndValues, SharedLatent
from ivx.conversion.statistics import Statistics
from ivx.models.definition import Params


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """What the conversion of one layer lost.

    Attributes:
      query_error: relative error of the queries without QK-norm.
      key_error: relative error of the keys without QK-norm.
      rope_energy: share of the key energy in the head that keeps its rope.
      latent_energy: share of the weighted key and value energy that the latent retains.
      balance_ratio: divisor of the keys before the compression.
      rank: dimensions of the latent in use.
    """

    query_error: float
    key_error: float
    rope_energy: float
    latent_energy: float
    balance_ratio: float
    rank: int


class Sums(NamedTuple):
    """The sums of one layer: those of a pass, and the layer's index on their leading axis."""

    statistics: Statistics
    layer: int


def parameters(params: Params, index: int) -> Params:
    """The attention parameters of one layer, float64 on the host."""
    stacked = params["language_model"]["layers"]["self_attn"]
    return jax.tree.map(lambda a: np.asarray(a[index], np.float64), stacked)


def fit(source: Params, sums: Sums, method: Method) -> AffineMaps:
    """Queries and keys as linear maps of the layer's input.

    Args:
      source: from `parameters`.
      sums: of the layer.
      method: options.

    Raises:
      UserError: the fit is singular.
    """
    statistics, index = sums
    return AffineMaps(
        *(
            _replace_norm(
                method,
                source[f"{name}_proj"]["kernel"],
                source[f"{name}_norm"]["scale"],
                statistics.inputs[index],
                outputs[index],
            )
            for name, outputs in (("q", statistics.queries), ("k", statistics.keys))
        )
    )


def keys_and_values(
    source: Params, sums: Sums, method: Method, kind: str, maps: AffineMaps | None
) -> tuple[AffineLayer | None, KeysAndValues]:
    """The layer before its compression: without QK-norm for `m2la`, and its keys and values.

    Args:
      source: from `parameters`.
      sums: of the layer.
      method: options.
      kind: target attention.
      maps: from `fit`; None computes them here if they are needed.
    """
    statistics, index = sums
    if kind == "m2la_exact":
        cached_oo, queries_nhh = statistics.cached[index], statistics.roped_queries[index]
        return None, latent_layer.exact_keys_and_values(cached_oo, queries_nhh, source["o_proj"])
    maps = maps or fit(source, sums, method)
    v = np.pad(source["v_proj"]["kernel"], [(0, 1), (0, 0)])
    if method.sequential and method.norm == "affine":
        # The inputs differ from those of the source, so a refit of the values recovers some loss.
        v = qk_norm.ridge_regression(
            v, statistics.inputs[index], statistics.values[index], method.ridge
        )
    layer = AffineLayer(*maps, v, source["o_proj"]["kernel"], _mean_rotation(method, sums))
    return layer, latent_layer.keys_and_values(layer, statistics.inputs[index])


def convert(
    source: Params,
    sums: Sums,
    method: Method,
    kind: str,
    layer_rank: int,
    rank: int,
    maps: AffineMaps | None = None,
) -> tuple[Params, LayerReport]:
    """The layer's parameters without o_proj, float32, and its report.

    Args:
      source: from `parameters`.
      sums: of the layer.
      method: options.
      kind: target attention.
      layer_rank: dimensions of the latent in use.
      rank: R, the latent rank of the model.
      maps: from `fit`; None computes them here if they are needed.

    Raises:
      UserError: the rank is larger than keys and values together.
    """
    layer, features = keys_and_values(source, sums, method, kind, maps)
    rotated = shared_latent.rotate(features, method)
    shared = shared_latent.pad(shared_latent.compress(features, rotated, layer_rank), rank)
    if layer is None:
        return _float32(latent_layer.exact_kernels(source, shared)), _report((0.0, 0.0), shared)
    kernels = latent_layer.kernels(latent_layer.latent_layer(layer, shared))
    return _float32(kernels), _report(_errors(layer, sums), shared)


def _errors(layer: AffineLayer, sums: Sums) -> tuple[float, ...]:
    """Relative errors of queries and keys without QK-norm."""
    statistics, index = sums
    return tuple(
        qk_norm.relative_error(map_eo, statistics.inputs[index], outputs[index], energy[index])
        for map_eo, outputs, energy in (
            (layer.q, statistics.queries, statistics.query_energy),
            (layer.k, statistics.keys, statistics.key_energy),
        )
    )


def _report(errors: tuple[float, ...], shared: SharedLatent) -> LayerReport:
    return LayerReport(*errors, shared.rope_energy, shared.latent_energy, shared.ratio, shared.rank)


def _replace_norm(
    method: Method,
    kernel_do: np.ndarray,
    scale_h: np.ndarray,
    inputs_ee: np.ndarray,
    outputs_eo: np.ndarray,
) -> np.ndarray:
    """A projection and its norm as one map, float64 [E, O]."""
    if method.norm == "affine":
        return qk_norm.fit(kernel_do, scale_h, inputs_ee, outputs_eo, method.ridge)
    if method.norm == "fold":
        return qk_norm.fold(kernel_do, scale_h, inputs_ee, outputs_eo)
    return qk_norm.drop(kernel_do, scale_h)


def _mean_rotation(method: Method, sums: Sums) -> np.ndarray:
    """The constants that replace the lost rope, complex [N, H / 2]."""
    real, imaginary = sums.statistics.turns[sums.layer] / sums.statistics.tokens
    return real + 1j * imaginary if method.mean_rotation else np.ones_like(real) + 0j


def _float32(kernels: Params) -> Params:
    return jax.tree.map(lambda a: a.astype(np.float32), kernels)
