"""What each query sees, and which pairs of blocks hold something that is seen.

A query sees an interval of keys, `first` to `last`: in a pack, from the beginning of its sample to
itself. Blocks of queries then see intervals of blocks of keys, and whatever lies outside is never
visited. With two samples, three blocks a side, s visited and masked, S visited and seen whole:

            keys        Made on the device from B T numbers; the map of block pairs, B T S / block^2
    queries s . .       entries, is the largest array, and the list holds only what is visited.
            s s .
            . s s
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


class Seen(NamedTuple):
    """The keys that each query sees, int32 [B, T] both; none where last < first."""

    first: Array
    last: Array


class Visits(NamedTuple):
    """Pairs of blocks in the order in which they are visited; entries from `count` on are idle.

    Attributes:
      batch: int32 [V].
      query: block of queries, int32 [V].
      key: block of keys, int32 [V].
      masked: whether some query of the block does not see some key of the block, bool [V].
      opens: whether the block that stays (queries, or keys if `by_key`) is new, bool [V].
      closes: whether it will not be visited again, bool [V].
      empty: whether nothing is seen, and the visit is there to make 0 of the block, bool [V].
      count: int32 [].
    """

    batch: Int[Array, " v"]
    query: Int[Array, " v"]
    key: Int[Array, " v"]
    masked: Bool[Array, " v"]
    opens: Bool[Array, " v"]
    closes: Bool[Array, " v"]
    empty: Bool[Array, " v"]
    count: Int[Array, ""]


def earlier_in_sample(segments_bt: Int[Array, "b t"]) -> Seen:
    """Of the tokens of a pack, each sees its sample up to itself; padding, numbered 0, nothing.

    A sample is a run of equal numbers.
    """
    position = jax.lax.broadcasted_iota(jnp.int32, segments_bt.shape, 1)
    begins = jnp.diff(segments_bt, axis=1, prepend=segments_bt[:, :1] - 1) != 0
    first = jax.lax.cummax(jnp.where(begins, position, 0), axis=1)
    return Seen(first, jnp.where(segments_bt > 0, position, -1))


def pad(seen: Seen, length: int) -> Seen:
    """With queries that see nothing, up to `length`."""
    room = ((0, 0), (0, length - seen.first.shape[1]))
    return Seen(jnp.pad(seen.first, room), jnp.pad(seen.last, room, constant_values=-1))


def visits(
    seen: Seen, keys: int, query_block: int, key_block: int, *, by_key: bool = False
) -> Visits:
    """The pairs of blocks with something seen.

    Args:
      seen: by each query; T is a multiple of `query_block`.
      keys: S, a multiple of `key_block`.
      query_block: queries a block.
      key_block: keys a block.
      by_key: visit all queries of a block of keys in a row, instead of all keys of a block of
        queries; a block of keys that nothing sees is visited once, so that something is made of it.
    """
    batch, length = seen.first.shape
    rows, columns = length // query_block, keys // key_block
    blocks = (batch, rows, query_block)
    real = (seen.last >= seen.first).reshape(blocks)
    first, last = seen.first.reshape(blocks), seen.last.reshape(blocks)
    earliest = jnp.where(real, first, keys).min(-1)[..., None]
    latest = jnp.where(real, last, -1).max(-1)[..., None]
    begin = jnp.arange(columns, dtype=jnp.int32) * key_block
    end = begin + key_block - 1
    visited = (end >= earliest) & (begin <= latest)
    whole = (
        real.all(-1)[..., None]
        & (begin >= first.max(-1)[..., None])
        & (end <= last.min(-1)[..., None])
    )
    empty = jnp.zeros_like(visited)
    if by_key:
        empty = empty.swapaxes(1, 2)
        visited, whole = visited.swapaxes(1, 2), whole.swapaxes(1, 2)
        empty = empty.at[..., 0].set(~visited.any(-1))
        visited = visited | empty
    sizes = visited.shape
    [place] = jnp.nonzero(visited.ravel(), size=visited.size, fill_value=0)
    stays, moves = place // sizes[2], place % sizes[2]
    count = visited.sum(dtype=jnp.int32)
    number = jnp.arange(place.size)
    opens = (number == 0) | (stays != jnp.roll(stays, 1))
    closes = (number == count - 1) | (stays != jnp.roll(stays, -1))
    one, other = (stays % sizes[1]).astype(jnp.int32), moves.astype(jnp.int32)
    query, key = (other, one) if by_key else (one, other)
    row = (stays // sizes[1]).astype(jnp.int32)
    masked, empty = ~whole.ravel()[place], empty.ravel()[place]
    return Visits(row, query, key, masked, opens, closes, empty, count)
