"""The latent cache of a layer: one array of entries, so each token is contiguous in memory.

    entry = [latent (R) | rotated rope key (P)]                           E = R + P numbers

Scores are one product over all of E. The values are the first R columns of the same block, which is
fetched once. Nothing is padded here: TPUs tile the last axis by 128 (896 + 128 fills 8 tiles), and
CPUs and GPUs need no padding.

Entries in int8 or fp8 have one float32 scale per token; see `quantise`.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


class LatentCache(NamedTuple):
    """A contiguous cache: one row of entries per sequence.

    Attributes:
      entries: [B, S, E], in the compute dtype, int8 or float8_e4m3fn.
      scales: float32 [B, 1, S], factor of each entry; None means 1.
    """

    entries: Array
    scales: Array | None = None


class PagedCache(NamedTuple):
    """A paged cache: sequences share a pool of pages; S is J times the page size.

    Attributes:
      pages: [M, page, E], dtypes as `LatentCache.entries`.
      table: int32 [B, J], page index of each run of entries; arbitrary where no page is assigned.
      scales: float32 [M, 1, page] or None.
    """

    pages: Array
    table: Array
    scales: Array | None = None


def capacity(cache: LatentCache | PagedCache) -> int:
    """S, the maximum number of entries per sequence."""
    if isinstance(cache, PagedCache):
        return cache.table.shape[1] * cache.pages.shape[1]
    return cache.entries.shape[1]


def read(cache: LatentCache | PagedCache, first: Array | int, count: int) -> LatentCache:
    """Entries `first` to `first + count` of every sequence; full pages of a paged cache."""
    if isinstance(cache, LatentCache):
        entries = lax.dynamic_slice_in_dim(cache.entries, first, count, 1)
        if cache.scales is None:
            return LatentCache(entries)
        return LatentCache(entries, lax.dynamic_slice_in_dim(cache.scales, first, count, 2))
    page = cache.pages.shape[1]
    table_bj = lax.dynamic_slice_in_dim(cache.table, first // page, count // page, 1)
    # The table is arbitrary where a sequence has no page.
    table_bj = jnp.clip(table_bj, 0, cache.pages.shape[0] - 1)
    rows = table_bj.shape[0]
    entries = cache.pages[table_bj].reshape(rows, count, -1)
    if cache.scales is None:
        return LatentCache(entries)
    return LatentCache(entries, cache.scales[table_bj].reshape(rows, 1, count))
