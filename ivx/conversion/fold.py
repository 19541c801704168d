"""QK-norm as one number a head: W' = c * scale * W, without a bias.

    c = argmin  sum |q - c scale (W x)|^2        q = scale (W x) / rms(W x)

c is the mean of 1 / rms, weighted by energy. It is all of the answer when the rms of a head never
changes; `drop`, c = 1, is what a pipeline made for models without the norm does at best.

Shapes: E = D + 1, O = heads * H; sums as in `ivx.conversion.statistics`, float64.
"""

import numpy as np


def fold(
    kernel_do: np.ndarray, scale_h: np.ndarray, inputs_ee: np.ndarray, outputs_eo: np.ndarray
) -> np.ndarray:
    """The map, float64 [E, O]: scale and one number a head multiplied into the kernel.

    Args:
      kernel_do: W of q_proj or k_proj.
      scale_h: of q_norm or k_norm, shared by all heads.
      inputs_ee: A.
      outputs_eo: B_q or B_k.
    """
    heads = kernel_do.shape[1] // len(scale_h)
    scaled_eo = drop(kernel_do, scale_h)

    def per_head(values_eo: np.ndarray) -> np.ndarray:
        return values_eo.sum(0).reshape(heads, -1).sum(1)

    along = per_head(scaled_eo * outputs_eo)
    energy = per_head(scaled_eo * (inputs_ee @ scaled_eo))
    share = np.divide(along, energy, out=np.zeros(heads), where=energy > 0)
    return scaled_eo * np.repeat(share, len(scale_h))


def drop(kernel_do: np.ndarray, scale_h: np.ndarray) -> np.ndarray:
    """The map, float64 [E, O], that keeps the scale and forgets the division."""
    heads = kernel_do.shape[1] // len(scale_h)
    return np.vstack([kernel_do * np.tile(scale_h, heads), np.zeros(kernel_do.shape[1])])
