"""Attention outputs over parts of a cache, merged by their log-sum-exp.

    context = sum_i exp(lse_i - lse) context_i        lse = log sum_i exp(lse_i)

A part without visible entries has the lowest possible weight and a context of zeros. The merge is
computed in float32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array


class AttentionOutput(NamedTuple):
    """The attention output over a cache or over a part of one.

    Attributes:
      context: [B, T, N, R], softmax-weighted mean of the latents; zeros if no entry is visible.
        [B, T, N, H] after the value projection.
      lse: float32 [B, T, N], log-sum-exp of the scores; `masking.MASKED` if no entry is visible.
    """

    context: Array
    lse: Array


def merge(parts: AttentionOutput) -> AttentionOutput:
    """Merges parts stacked on a new axis 0."""
    top = parts.lse.max(0)
    weights = jnp.exp(parts.lse - top)
    total = weights.sum(0)
    context = (weights[..., None] * parts.context.astype(jnp.float32)).sum(0) / total[..., None]
    return AttentionOutput(context.astype(parts.context.dtype), top + jnp.log(total))


def merge_over(axis: str, part: AttentionOutput) -> AttentionOutput:
    """Inside `shard_map`: merges the parts of the devices along mesh axis `axis`."""
    top = jax.lax.pmax(part.lse, axis)
    weights = jnp.exp(part.lse - top)
    total = jax.lax.psum(weights, axis)
    summed = jax.lax.psum(weights[..., None] * part.context.astype(jnp.float32), axis)
    context = (summed / total[..., None]).astype(part.context.dtype)
    return AttentionOutput(context, top + jnp.log(total))
