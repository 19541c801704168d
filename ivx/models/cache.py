"""Writing a new token into the cache of a layer, in place inside a loop.

Shapes: cached arrays [B, ..., S, n], new entries [B, ..., n], one for each row.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


def write(cache, new, lengths_b: Int[Array, " b"]):
    """The cache with entry `lengths_b` of each row replaced by that of `new`, of the same type."""

    def put(old: Array, add: Array, times: int = 1) -> Array:
        rows = jnp.tile(jnp.arange(add.shape[0]), times)
        places, values = jnp.tile(lengths_b, times), jnp.concatenate([add] * times)
        return old.at[rows, ..., places, :].set(values, mode="promise_in_bounds")

    def put_one(old: Array, add: Array) -> Array:
        # XLA:CPU makes a slice update of a single write, fuses it into each reader of the cache,
        # and has to copy the whole of it for each. A write that is done twice it leaves alone.
        return jax.lax.platform_dependent(
            old, add, cpu=lambda old, add: put(old, add, 2), default=put
        )

    return jax.tree.map(put if lengths_b.shape[0] > 1 else put_one, cache, new)
