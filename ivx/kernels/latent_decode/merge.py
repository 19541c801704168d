"""What queries found in the parts of a cache, and the parts merged by their log-sum-exp.

    context = sum_i exp(lse_i - lse) context_i        lse = log sum_i exp(lse_i)

A part that saw nothing has the lowest weight there is and a context of zeros. All in float32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array


class Attended(NamedTuple):
    """What queries found in a cache or in a part of one.

    Attributes:
      context: [B, T, N, R], the mean of latents by softmax; zeros where nothing was seen. After
        the values' projection [B, T, N, H].
      lse: float32 [B, T, N], log of the sum of exponentials of scores; `masking.MASKED` where
        nothing was seen.
    """

    context: Array
    lse: Array


def merge(parts: Attended) -> Attended:
    """The whole of parts that lie on a new axis 0."""
    top = parts.lse.max(0)
    weights = jnp.exp(parts.lse - top)
    total = weights.sum(0)
    context = (weights[..., None] * parts.context.astype(jnp.float32)).sum(0) / total[..., None]
    return Attended(context.astype(parts.context.dtype), top + jnp.log(total))


def merge_over(axis: str, part: Attended) -> Attended:
    """The whole of the parts that the devices along mesh axis `axis` hold, inside `shard_map`."""
    top = jax.lax.pmax(part.lse, axis)
    weights = jnp.exp(part.lse - top)
    total = jax.lax.psum(weights, axis)
    summed = jax.lax.psum(weights[..., None] * part.context.astype(jnp.float32), axis)
    context = (summed / total[..., None]).astype(part.context.dtype)
    return Attended(context, top + jnp.log(total))
