"""QK-norm as an affine map of the input, the biases of the released parameterization.

    q = scale * (W x) / rms(W x)   ~   V [x; 1]

The norm divides every head by a number that differs from token to token, so that no linear map
equals it. Of all maps the fit takes

    V = argmin  sum |q - V [x; 1]|^2 + lambda |V - V0|^2,    lambda = ridge * mean diagonal of A

V0 is the fold of `ivx.conversion.fold`. Where tokens are too few to say better the fit falls back
on it.

Shapes: E = D + 1, O = heads * H; sums as in `ivx.conversion.statistics`, float64.
"""

import numpy as np

from ivx.conversion.fold import fold
from ivx.errors import UserError


def fit(
    kernel_do: np.ndarray,
    scale_h: np.ndarray,
    inputs_ee: np.ndarray,
    outputs_eo: np.ndarray,
    ridge: float,
) -> np.ndarray:
    """The affine map, float64 [E, O]; its last row is the bias.

    Args:
      kernel_do: W of q_proj or k_proj.
      scale_h: of q_norm or k_norm, shared by all heads.
      inputs_ee: A.
      outputs_eo: B_q or B_k.
      ridge: share of the mean diagonal of A; 0 is plain least squares.

    Raises:
      UserError: plain least squares has no single answer.
    """
    folded_eo = fold(kernel_do, scale_h, inputs_ee, outputs_eo)
    return toward(folded_eo, inputs_ee, outputs_eo, ridge)


def toward(
    prior_eo: np.ndarray, inputs_ee: np.ndarray, outputs_eo: np.ndarray, ridge: float
) -> np.ndarray:
    """The map that fits best, drawn to V0 = `prior_eo` by the ridge; otherwise as `fit`."""
    size = len(inputs_ee)
    damped_ee = inputs_ee + ridge * np.trace(inputs_ee) / size * np.eye(size)
    try:
        return prior_eo + np.linalg.solve(damped_ee, outputs_eo - inputs_ee @ prior_eo)
    except np.linalg.LinAlgError as error:
        raise UserError(
            f"stage.ridge = {ridge} and calibration tokens that do not span the {size - 1} inputs"
            " of a layer leave the QK-norm fit open; take a ridge of 1e-3 or more"
            " stage.calibration_packs"
        ) from error


def relative_error(
    map_eo: np.ndarray, inputs_ee: np.ndarray, outputs_eo: np.ndarray, energy: float
) -> float:
    """sqrt(sum |q - V [x; 1]|^2 / sum |q|^2), from the sums.

    The sums come from float32, so that an error under about 1e-3 is not told from 0.
    """
    missed = energy - 2 * np.vdot(map_eo, outputs_eo) + np.vdot(map_eo, inputs_ee @ map_eo)
    return float(np.sqrt(max(missed, 0.0) / energy)) if energy > 0 else 0.0
