"""Loss reduction: how the token losses of samples of different lengths are weighted.

With n_s the number of trained tokens of sample s, each of its tokens has weight n_s^p and

    L = sum_s n_s^p sum_t CE_st / sum_s n_s^(p + 1)

p = 0 is `token`, -1/2 `square` (InternVideo3, X/loss/ce_loss.py), -1 `sample`. Numerator and
denominator are summed over the global batch before the division.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

POWERS = {"token": 0.0, "square": -0.5, "sample": -1.0}


def token_weights(
    weights_bt: Float[Array, "b t"], segments_bt: Int[Array, "b t"], reduction: str
) -> Float[Array, "b t"]:
    """The weight of each token, `weights_bt` (0 or 1) times n_s^p, float32."""

    def sample_sizes(weights: Array, segments: Array) -> Array:
        sizes = jax.ops.segment_sum(weights, segments, segments.shape[0] + 1)
        return sizes[segments]

    size_bt = jax.vmap(sample_sizes)(weights_bt, segments_bt)
    return weights_bt * jnp.maximum(size_bt, 1) ** POWERS[reduction]
