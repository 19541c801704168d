"""Writes new tokens into the cache of a layer, in place inside a loop.

Shapes: cached arrays [B, ..., S, n], new entries [B, ..., T, n]; arrays of scales lack the n.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ivx.kernels.latent_decode.cache import LatentCache, PagedCache
from ivx.kernels.latent_decode.quantise import quantise


def write(cache: Array, new: Array, lengths_b: Int[Array, " b"], axis: int = -2) -> Array:
    """Replaces entries `lengths_b` to `lengths_b + T` of each row with the new entries.

    Args:
      cache: [B, ..., S, n].
      new: [B, ..., T, n] with the same dtype; its T entries must fit.
      lengths_b: position of the first new entry.
      axis: axis of S and T: -2, or -1 for arrays without n.
    """
    rows, count = new.shape[0], new.shape[axis]
    row_m = jnp.repeat(jnp.arange(rows), count)
    position_m = (lengths_b[:, None] + jnp.arange(count)).reshape(-1)
    new = jnp.moveaxis(new, axis, 1)
    new = new.reshape(rows * count, *new.shape[2:])
    trailing = (slice(None),) * (-1 - axis)

    def scatter(old: Array, add: Array, times: int = 1) -> Array:
        index = (jnp.tile(row_m, times), ..., jnp.tile(position_m, times), *trailing)
        return old.at[index].set(jnp.concatenate([add] * times), mode="promise_in_bounds")

    if rows * count > 1:
        return scatter(cache, new)
    # XLA:CPU turns a single write into a slice update, fuses it into each reader of the cache, and
    # copies the full cache for each. It does not do so with a write that is repeated.
    return jax.lax.platform_dependent(
        cache, new, cpu=lambda old, add: scatter(old, add, 2), default=scatter
    )


def append(
    cache: LatentCache | PagedCache, new_bte: Float[Array, "b t e"], lengths_b: Int[Array, " b"]
) -> LatentCache | PagedCache:
    """Appends T new entries per sequence at `lengths_b`, in the storage format of the cache.

    In a paged cache, positions without a page are not written.
    """
    stored = cache.pages if isinstance(cache, PagedCache) else cache.entries
    new = LatentCache(new_bte) if cache.scales is None else quantise(new_bte, stored.dtype)
    if isinstance(cache, LatentCache):
        entries = write(cache.entries, new.entries, lengths_b)
        if cache.scales is None:
            return LatentCache(entries)
        return LatentCache(entries, write(cache.scales, new.scales, lengths_b, axis=-1))
    count, page = cache.pages.shape[:2]
    position_bt = lengths_b[:, None] + jnp.arange(new_bte.shape[1])
    page_bt = jnp.take_along_axis(cache.table, jnp.maximum(position_bt, 0) // page, 1, mode="clip")
    inside = (position_bt >= 0) & (position_bt < cache.table.shape[1] * page) & (page_bt >= 0)
    page_bt = jnp.where(inside, page_bt, count)
    pages = cache.pages.at[page_bt, position_bt % page].set(new.entries, mode="drop")
    if cache.scales is None:
        return PagedCache(pages, cache.table)
    scales = cache.scales.at[page_bt, 0, position_bt % page].set(new.scales[:, 0], mode="drop")
    return PagedCache(pages, cache.table, scales)
