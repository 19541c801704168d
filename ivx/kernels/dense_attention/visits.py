"""The keys that each query attends to, and the pairs of blocks that a kernel visits.

A query attends to a range of keys, `first` to `last`. In a pack, the range starts at the beginning
of the query's sample and ends at the query. Blocks of queries then attend to ranges of key blocks,
and pairs of blocks outside these ranges are never visited. With two samples and three blocks per
side, where s is visited with a mask and S without:

            keys        The list is computed on the device from B T ranges. Its largest intermediate
    queries s . .       is the map of block pairs, B T S / block^2 entries. The list contains only
            s s .       visited pairs.
            . s s
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


class KeyRange(NamedTuple):
    """First and last key that each query attends to, both int32 [B, T]; empty if last < first."""

    first: Array
    last: Array


class Visits(NamedTuple):
    """Pairs of blocks in visiting order; entries from `count` on are unused.

    One side of a pair is stationary while the other iterates: the query block by default, the key
    block with `by_key`.

    Attributes:
      batch: int32 [V].
      query: index of the query block, int32 [V].
      key: index of the key block, int32 [V].
      masked: whether a query of the block does not attend to some key of the block, bool [V].
      opens: whether this is the first visit of the stationary block, bool [V].
      closes: whether this is the last visit of the stationary block, bool [V].
      empty: whether no query attends to any key; the visit only writes zeros, bool [V].
      count: number of visits, int32 [].
    """

    batch: Int[Array, " v"]
    query: Int[Array, " v"]
    key: Int[Array, " v"]
    masked: Bool[Array, " v"]
    opens: Bool[Array, " v"]
    closes: Bool[Array, " v"]
    empty: Bool[Array, " v"]
    count: Int[Array, ""]


def causal_key_range(segments_bt: Int[Array, "b t"]) -> KeyRange:
    """The range from the start of each token's sample to the token; empty for padding (0).

    A sample is a run of equal ids.
    """
    position = jax.lax.broadcasted_iota(jnp.int32, segments_bt.shape, 1)
    begins = jnp.diff(segments_bt, axis=1, prepend=segments_bt[:, :1] - 1) != 0
    first = jax.lax.cummax(jnp.where(begins, position, 0), axis=1)
    return KeyRange(first, jnp.where(segments_bt > 0, position, -1))


def pad(key_range: KeyRange, length: int) -> KeyRange:
    """Appends queries with empty ranges up to `length`."""
    padding = ((0, 0), (0, length - key_range.first.shape[1]))
    return KeyRange(
        jnp.pad(key_range.first, padding), jnp.pad(key_range.last, padding, constant_values=-1)
    )


def list_visits(
    key_range: KeyRange, keys: int, query_block: int, key_block: int, *, by_key: bool = False
) -> Visits:
    """The pairs of blocks in which some query attends to some key.

    Args:
      key_range: range of each query; T is a multiple of `query_block`.
      keys: S, a multiple of `key_block`.
      query_block: queries per block.
      key_block: keys per block.
      by_key: visit all query blocks of a key block in sequence instead of all key blocks of a query
        block. A key block that no query attends to is visited once, so that its gradient is
        written.
    """
    batch, length = key_range.first.shape
    rows, columns = length // query_block, keys // key_block
    blocks = (batch, rows, query_block)
    real = (key_range.last >= key_range.first).reshape(blocks)
    first, last = key_range.first.reshape(blocks), key_range.last.reshape(blocks)
    earliest = jnp.where(real, first, keys).min(-1)[..., None]
    latest = jnp.where(real, last, -1).max(-1)[..., None]
    begin = jnp.arange(columns, dtype=jnp.int32) * key_block
    end = begin + key_block - 1
    visited = (end >= earliest) & (begin <= latest)
    full = (
        real.all(-1)[..., None]
        & (begin >= first.max(-1)[..., None])
        & (end <= last.min(-1)[..., None])
    )
    empty = jnp.zeros_like(visited)
    if by_key:
        empty = empty.swapaxes(1, 2)
        visited, full = visited.swapaxes(1, 2), full.swapaxes(1, 2)
        empty = empty.at[..., 0].set(~visited.any(-1))
        visited = visited | empty
    sizes = visited.shape
    [index] = jnp.nonzero(visited.ravel(), size=visited.size, fill_value=0)
    stationary, moving = index // sizes[2], index % sizes[2]
    count = visited.sum(dtype=jnp.int32)
    visit = jnp.arange(index.size)
    opens = (visit == 0) | (stationary != jnp.roll(stationary, 1))
    closes = (visit == count - 1) | (stationary != jnp.roll(stationary, -1))
    outer, inner = (stationary % sizes[1]).astype(jnp.int32), moving.astype(jnp.int32)
    query, key = (inner, outer) if by_key else (outer, inner)
    row = (stationary // sizes[1]).astype(jnp.int32)
    masked, empty = ~full.ravel()[index], empty.ravel()[index]
    return Visits(row, query, key, masked, opens, closes, empty, count)
