"""One layer from grouped attention to either latent attention, by the sums of a pass.

What a layer needs is made when its turn comes and let go after it: at 8B the float64 matrices of
one layer are 1 GB, those of all would be more than a machine has.
"""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from ivx.conversion import affine, exact_layer, fold, shared_latent
from ivx.conversion.latent_layer import AffineLayer, LatentLayer, keys_and_values, latent_layer
from ivx.conversion.method import Method
from ivx.conversion.shared_latent import KeysAndValues, SharedLatent
from ivx.conversion.statistics import Statistics
from ivx.models.definition import Params


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


class Fitted(NamedTuple):
    """Queries and keys without QK-norm, biases in the last row: [E, N * H] and [E, K * H]."""

    q: np.ndarray
    k: np.ndarray


class Sums(NamedTuple):
    """The sums of one layer: those of a pass, and its place on their leading axis."""

    statistics: Statistics
    place: int


def parameters(params: Params, number: int) -> Params:
    """Parameters of one layer's attention, float64 on the host."""
    stacked = params["language_model"]["layers"]["self_attn"]
    return jax.tree.map(lambda a: np.asarray(a[number], np.float64), stacked)


def fit(source: Params, sums: Sums, method: Method) -> Fitted:
    """Queries and keys as linear maps of the layer's input.

    Args:
      source: from `parameters`.
      sums: of the layer.
      method: how.

    Raises:
      UserError: the fit is open.
    """
    found, place = sums
    return Fitted(
        *(
            _linear(
                method,
                source[f"{name}_proj"]["kernel"],
                source[f"{name}_norm"]["scale"],
                found.inputs[place],
                outputs[place],
            )
            for name, outputs in (("q", found.queries), ("k", found.keys))
        )
    )


def whole(
    source: Params, sums: Sums, method: Method, kind: str, fitted: Fitted | None
) -> tuple[AffineLayer | None, KeysAndValues]:
    """The layer before its latent: without norm if `kind` is `m2la`, and what is to share one.

    Args:
      source: from `parameters`.
      sums: of the layer.
      method: how.
      kind: attention to convert to.
      fitted: from `fit`; None makes it here, if it is needed.
    """
    found, place = sums
    if kind == "m2la_exact":
        cached_oo, queries_nhh = found.cached[place], found.roped_queries[place]
        return None, exact_layer.keys_and_values(cached_oo, queries_nhh, source["o_proj"])
    fitted = fitted or fit(source, sums, method)
    v = np.pad(source["v_proj"]["kernel"], [(0, 1), (0, 0)])
    if method.sequential and method.norm == "affine":
        # What the layer is fed is not what its source is: values have something to take back too.
        v = affine.toward(v, found.inputs[place], found.values[place], method.ridge)
    layer = AffineLayer(*fitted, v, source["o_proj"]["kernel"], _turn(method, sums))
    return layer, keys_and_values(layer, found.inputs[place])


def convert(
    source: Params,
    sums: Sums,
    method: Method,
    kind: str,
    own_rank: int,
    rank: int,
    fitted: Fitted | None = None,
) -> tuple[Params, LayerReport]:
    """Parameters of the layer but for o_proj, float32, and its row.

    Args:
      source: from `parameters`.
      sums: of the layer.
      method: how.
      kind: attention to convert to.
      own_rank: numbers of the latent that are used.
      rank: R, that of the model.
      fitted: from `fit`, if it is at hand.

    Raises:
      UserError: the rank is larger than keys and values together.
    """
    layer, parts = whole(source, sums, method, kind, fitted)
    shared = shared_latent.compress(parts, shared_latent.rotate(parts, method), own_rank)
    shared = shared_latent.widen(shared, rank)
    if layer is None:
        return _float32(exact_layer.kernels(source, shared)), _report((0.0, 0.0), shared)
    return _kernels(latent_layer(layer, shared)), _report(_errors(layer, sums), shared)


def _errors(layer: AffineLayer, sums: Sums) -> tuple[float, ...]:
    """Relative errors of queries and keys without their norm."""
    found, place = sums
    return tuple(
        affine.relative_error(map_eo, found.inputs[place], outputs[place], energy[place])
        for map_eo, outputs, energy in (
            (layer.q, found.queries, found.query_energy),
            (layer.k, found.keys, found.key_energy),
        )
    )


def _report(errors: tuple[float, ...], shared: SharedLatent) -> LayerReport:
    return LayerReport(*errors, shared.rope_energy, shared.latent_energy, shared.ratio, shared.rank)


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


def _turn(method: Method, sums: Sums) -> np.ndarray:
    """What stands for the rope that is lost, complex [N, H / 2]."""
    real, imaginary = sums.statistics.turns[sums.place] / sums.statistics.tokens
    return real + 1j * imaginary if method.turn == "mean" else np.ones_like(real) + 0j


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
