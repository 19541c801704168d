"""What a layer keeps of the past: one array of entries, so that a token is one run of memory.

    entry = [latent (R) | rotated rope key (P)]                           E = R + P numbers

Scores are one product over all E; values are the first R columns of the same block, which is
fetched once. Nothing is padded here: TPUs lay the last axis out in tiles of 128 by themselves
(896 + 128 fills 8 of them), and CPUs and GPUs have no use for it.

Entries of int8 or fp8 come with one float32 scale a token; see `quantise`.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


class LatentCache(NamedTuple):
    """A row of entries for each sequence.

    Attributes:
      entries: [B, S, E], in the dtype of computation, int8 or float8_e4m3fn.
      scales: float32 [B, 1, S], what the numbers of each entry are multiplied by; None: nothing.
    """

    entries: Array
    scales: Array | None = None


class PagedCache(NamedTuple):
    """Entries in pages that sequences share a pool of; S = J times the page.

    Attributes:
      pages: [M, page, E], as `LatentCache.entries`.
      table: int32 [B, J], the page of each run of entries of a sequence; anything where none is.
      scales: float32 [M, 1, page] or None.
    """

    pages: Array
    table: Array
    scales: Array | None = None


def capacity(cache: LatentCache | PagedCache) -> int:
    """S, the entries that a sequence may have."""
    if isinstance(cache, PagedCache):
        return cache.table.shape[1] * cache.pages.shape[1]
    return cache.entries.shape[1]


def read(cache: LatentCache | PagedCache, first: Array | int, count: int) -> LatentCache:
    """Entries `first` to `first + count` of every sequence; whole pages of a paged cache."""
    if isinstance(cache, LatentCache):
        entries = lax.dynamic_slice_in_dim(cache.entries, first, count, 1)
        if cache.scales is None:
            return LatentCache(entries)
        return LatentCache(entries, lax.dynamic_slice_in_dim(cache.scales, first, count, 2))
    page = cache.pages.shape[1]
    table_bj = lax.dynamic_slice_in_dim(cache.table, first // page, count // page, 1)
    # Where a sequence has no page the table may hold anything.
    table_bj = jnp.clip(table_bj, 0, cache.pages.shape[0] - 1)
    rows = table_bj.shape[0]
    entries = cache.pages[table_bj].reshape(rows, count, -1)
    if cache.scales is None:
        return LatentCache(entries)
    return LatentCache(entries, cache.scales[table_bj].reshape(rows, 1, count))
