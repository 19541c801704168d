"""A running mean of the parameters, which is what is read back from the run.

    mean_0 = params_0;  mean <- d mean + (1 - d) params;  d = min(decay, (1 + step) / (10 + step))

The shorter memory at the start lets the mean forget the parameters that the run began with.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ivx.models.definition import Params


def follow(
    mean: Params | None, params: Params, decay: float, step: Int[Array, ""]
) -> Params | None:
    """The mean after a step; None stays None.

    Args:
      mean: before, float32.
      params: after the step.
      decay: between 0 and 1.
      step: steps before this one.
    """
    if mean is None:
        return None
    keep = jnp.minimum(decay, (1 + step) / (10 + step)).astype(jnp.float32)
    return jax.tree.map(lambda m, p: m + (1 - keep) * (p - m), mean, params)
