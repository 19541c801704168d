"""Approximation 1: an affine map of the input replaces a projection and its QK-norm.

    q = scale * (W x) / rms(W x)   ~   V [x; 1]

The norm divides each head by a token-dependent scalar, so no linear map equals it. Three options:

    affine  V = argmin  sum |q - V [x; 1]|^2 + lambda |V - V0|^2, with V0 the fold and
            lambda = ridge * mean diagonal of A; gives the biases of the released parameterization
    fold    V0 = c * scale * W, no bias, with one c per head:
            c = argmin  sum |q - c scale (W x)|^2, the energy-weighted mean of 1 / rms
    drop    c = 1: what a pipeline for models without QK-norm does at best

The fold is exact if the rms of a head is constant. With too few tokens, the affine fit falls back
on the fold.

Shapes: E = D + 1, O = heads * H; sums as in `ivx.conversion.statistics`, float64.
"""

from typing import NamedTuple

import numpy as np

from ivx.errors import UserError


class AffineMaps(NamedTuple):
    """Queries and keys without QK-norm, biases in the last row: [E, N * H] and [E, K * H]."""

    q: np.ndarray
    k: np.ndarray


def fit(
    kernel_do: np.ndarray,
    scale_h: np.ndarray,
    inputs_ee: np.ndarray,
    outputs_eo: np.ndarray,
    ridge: float,
) -> np.ndarray:
    """The affine map, float64 [E, O]; the last row is the bias.

    Args:
      kernel_do: W of q_proj or k_proj.
      scale_h: of q_norm or k_norm, shared by all heads.
      inputs_ee: A.
      outputs_eo: B_q or B_k.
      ridge: share of the mean diagonal of A; 0 is plain least squares.

    Raises:
      UserError: plain least squares has no unique solution.
    """
    folded_eo = fold(kernel_do, scale_h, inputs_ee, outputs_eo)
    return ridge_regression(folded_eo, inputs_ee, outputs_eo, ridge)


def ridge_regression(
    prior_eo: np.ndarray, inputs_ee: np.ndarray, outputs_eo: np.ndarray, ridge: float
) -> np.ndarray:
    """The least-squares map with a ridge penalty on its distance from `prior_eo`.

    Raises:
      UserError: the problem has no unique solution.
    """
    size = len(inputs_ee)
    damped_ee = inputs_ee + ridge * np.trace(inputs_ee) / size * np.eye(size)
    try:
        return prior_eo + np.linalg.solve(damped_ee, outputs_eo - inputs_ee @ prior_eo)
    except np.linalg.LinAlgError as error:
        raise UserError(
            f"the QK-norm fit is singular: stage.ridge = {ridge} and the calibration tokens do not"
            f" span the {size - 1} inputs of a layer; set stage.ridge=1e-3 or raise"
            " stage.calibration_packs"
        ) from error


def fold(
    kernel_do: np.ndarray, scale_h: np.ndarray, inputs_ee: np.ndarray, outputs_eo: np.ndarray
) -> np.ndarray:
    """The kernel times the scale and one constant per head, float64 [E, O]; arguments as `fit`."""
    heads = kernel_do.shape[1] // len(scale_h)
    scaled_eo = drop(kernel_do, scale_h)

    def sum_per_head(values_eo: np.ndarray) -> np.ndarray:
        return values_eo.sum(0).reshape(heads, -1).sum(1)

    projection = sum_per_head(scaled_eo * outputs_eo)
    energy = sum_per_head(scaled_eo * (inputs_ee @ scaled_eo))
    constant = np.divide(projection, energy, out=np.zeros(heads), where=energy > 0)
    return scaled_eo * np.repeat(constant, len(scale_h))


def drop(kernel_do: np.ndarray, scale_h: np.ndarray) -> np.ndarray:
    """The kernel times the scale, without the division, float64 [E, O]."""
    heads = kernel_do.shape[1] // len(scale_h)
    return np.vstack([kernel_do * np.tile(scale_h, heads), np.zeros(kernel_do.shape[1])])


def relative_error(
    map_eo: np.ndarray, inputs_ee: np.ndarray, outputs_eo: np.ndarray, energy: float
) -> float:
    """sqrt(sum |q - V [x; 1]|^2 / sum |q|^2), computed from the sums.

    The sums come from float32, so errors below about 1e-3 cannot be distinguished from 0.
    """
    residual = energy - 2 * np.vdot(map_eo, outputs_eo) + np.vdot(map_eo, inputs_ee @ map_eo)
    return float(np.sqrt(max(residual, 0.0) / energy)) if energy > 0 else 0.0
