"""Exponential moving average of the parameters, which evaluation and exports use.

    mean_0 = params_0;  mean <- d mean + (1 - d) params;  d = min(decay, (1 + step) / (10 + step))

The smaller d of the first steps lets the mean forget the initial parameters.
"""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from ivx.models.definition import Params


def update(
    mean: Params | None, params: Params, decay: float, step: Int[Array, ""]
) -> Params | None:
    """The mean after a step; None stays None.

    Args:
      mean: before the step, float32.
      params: after the step.
      decay: between 0 and 1.
      step: number of steps before this one.
    """
    if mean is None:
        return None
    keep = jnp.minimum(decay, (1 + step) / (10 + step)).astype(jnp.float32)
    return optax.incremental_update(params, mean, step_size=1 - keep)
