"""Writing new tokens into the cache of a layer, in place inside a loop.

Shapes: cached arrays [B, ..., S, n], new entries [B, ..., T, n]; arrays of scales lack the n.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ivx.kernels.latent_decode.cache import LatentCache, PagedCache
from ivx.kernels.latent_decode.quantise import quantise


def write(cache: Array, new: Array, lengths_b: Int[Array, " b"], axis: int = -2) -> Array:
    """The cache with entries `lengths_b` to `lengths_b + T` of each row replaced by the new ones.

    Args:
      cache: [B, ..., S, n].
      new: [B, ..., T, n] of the same dtype; its T entries have to fit.
      lengths_b: where the first one goes.
      axis: of S and T, -2, or -1 where there is no n.
    """
    rows, count = new.shape[0], new.shape[axis]
    row_m = jnp.repeat(jnp.arange(rows), count)
    place_m = (lengths_b[:, None] + jnp.arange(count)).reshape(-1)
    new = jnp.moveaxis(new, axis, 1)
    new = new.reshape(rows * count, *new.shape[2:])
    after = (slice(None),) * (-1 - axis)

    def put(old: Array, add: Array, times: int = 1) -> Array:
        index = (jnp.tile(row_m, times), ..., jnp.tile(place_m, times), *after)
        return old.at[index].set(jnp.concatenate([add] * times), mode="promise_in_bounds")

    if rows * count > 1:
        return put(cache, new)
    # XLA:CPU makes a slice update of a single write, fuses it into each reader of the cache,
    # and has to copy the whole of it for each. A write that is done twice it leaves alone.
    return jax.lax.platform_dependent(
        cache, new, cpu=lambda old, add: put(old, add, 2), default=put
    )


def append(
    cache: LatentCache | PagedCache, new_bte: Float[Array, "b t e"], lengths_b: Int[Array, " b"]
) -> LatentCache | PagedCache:
    """A latent cache with T new entries a sequence from `lengths_b` on, stored as the others are.

    In a paged cache a place that no page of the table holds is not written.
    """
    stored = cache.pages if isinstance(cache, PagedCache) else cache.entries
    new = LatentCache(new_bte) if cache.scales is None else quantise(new_bte, stored.dtype)
    if isinstance(cache, LatentCache):
        entries = write(cache.entries, new.entries, lengths_b)
        if cache.scales is None:
            return LatentCache(entries)
        return LatentCache(entries, write(cache.scales, new.scales, lengths_b, axis=-1))
    count, page = cache.pages.shape[:2]
    place_bt = lengths_b[:, None] + jnp.arange(new_bte.shape[1])
    number_bt = jnp.take_along_axis(cache.table, jnp.maximum(place_bt, 0) // page, 1, mode="clip")
    inside = (place_bt >= 0) & (place_bt < cache.table.shape[1] * page) & (number_bt >= 0)
    number_bt = jnp.where(inside, number_bt, count)
    pages = cache.pages.at[number_bt, place_bt % page].set(new.entries, mode="drop")
    if cache.scales is None:
        return PagedCache(pages, cache.table)
    scales = cache.scales.at[number_bt, 0, place_bt % page].set(new.scales[:, 0], mode="drop")
    return PagedCache(pages, cache.table, scales)
