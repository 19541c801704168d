"""Visits as the kernels read them: one number each, ahead of the grid, and windows that follow.

    bits 0..2 masked, opens, closes | 3..13 block of keys | 14..24 block of queries | 25..30 batch
    bit 31 empty

A grid runs over heads and then over visits, of which there are as many as the segments ask for:
the last bound of the grid is known on the device only.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Int

from ivx.kernels.dense_attention.visits import Visits

_MASKED, _OPENS, _CLOSES = 1, 2, 4
_KEY, _QUERY, _BATCH, _EMPTY = 3, 14, 25, 31
# Most blocks of one axis, and most packs of a batch on one device.
MOST_BLOCKS, MOST_BATCH = 1 << 11, 1 << 6


def encode(visits: Visits) -> Int[Array, " v"]:
    """One int32 a visit."""
    return (
        visits.masked * _MASKED
        | visits.opens * _OPENS
        | visits.closes * _CLOSES
        | visits.key << _KEY
        | visits.query << _QUERY
        | visits.batch << _BATCH
        | visits.empty.astype(jnp.int32) << _EMPTY
    ).astype(jnp.int32)


def batch_of(code: Array) -> Array:
    """Row of the batch."""
    return jax.lax.shift_right_logical(code, _BATCH) & (MOST_BATCH - 1)


def query_of(code: Array) -> Array:
    """Block of queries."""
    return jax.lax.shift_right_logical(code, _QUERY) & (MOST_BLOCKS - 1)


def key_of(code: Array) -> Array:
    """Block of keys."""
    return jax.lax.shift_right_logical(code, _KEY) & (MOST_BLOCKS - 1)


def is_masked(code: Array) -> Array:
    """Whether the pair of blocks holds something that is not seen."""
    return (code & _MASKED) != 0


def is_empty(code: Array) -> Array:
    """Whether nothing is seen: the visit is there for a block that would have none."""
    return code < 0


def opens(code: Array) -> Array:
    """Whether the block that stays is new."""
    return (code & _OPENS) != 0


def closes(code: Array) -> Array:
    """Whether the block that stays is done."""
    return (code & _CLOSES) != 0


def window(
    shape: tuple[int, int],
    tokens: int,
    block_of: Callable[[Array], Array],
    head: Callable[..., Array | int] = lambda n: n,
) -> pl.BlockSpec:
    """Of an array [B, heads, ., .]: the part of this shape that a visit needs.

    Args:
      shape: of the last two axes.
      tokens: which of these two is cut into blocks; the other is whole.
      block_of: number of the block, `query_of` or `key_of`.
      head: from the numbers of the grid, without that of the visit, to the head.
    """

    def index(n, visit, *rest):
        *inner, code = rest
        place = [0, 0]
        place[tokens] = block_of(code[visit])
        return batch_of(code[visit]), head(n, *inner), *place

    return pl.BlockSpec((None, None, *shape), index)
