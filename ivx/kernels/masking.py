"""Masks shared by the attention ops."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

# Finite, so that a row with nothing to look at gives a mean instead of NaN; such rows are padding.
MASKED = -1e30


def causal_segments(
    query_segments: Int[Array, "b t"], key_segments: Int[Array, "b s"], first_query: int
) -> Bool[Array, "b 1 t s"]:
    """True where query first_query + t may look at key s: the same sample, and not later."""
    query = first_query + jnp.arange(query_segments.shape[1])[:, None]
    causal = query >= jnp.arange(key_segments.shape[1])[None]
    same = query_segments[:, :, None] == key_segments[:, None, :]
    return (same & causal)[:, None]
