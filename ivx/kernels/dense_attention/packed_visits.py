"""Visits packed into one int32 each, prefetched as scalars, and the block specs that read them.

    bits 0..2 masked, opens, closes | 3..13 key block | 14..24 query block | 25..30 batch
    bit 31 empty

The grid iterates over heads and then over visits. The number of visits depends on the segments, so
the last bound of the grid is known only on the device.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Int

from ivx.kernels.dense_attention.visits import Visits

_MASKED, _OPENS, _CLOSES = 1, 2, 4
_KEY, _QUERY, _BATCH, _EMPTY = 3, 14, 25, 31
# Maximum number of blocks along an axis, and of packs on one device.
MOST_BLOCKS, MOST_BATCH = 1 << 11, 1 << 6


def encode(visits: Visits) -> Int[Array, " v"]:
    """Packs each visit into an int32."""
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
    """Index along the batch."""
    return jax.lax.shift_right_logical(code, _BATCH) & (MOST_BATCH - 1)


def query_of(code: Array) -> Array:
    """Index of the query block."""
    return jax.lax.shift_right_logical(code, _QUERY) & (MOST_BLOCKS - 1)


def key_of(code: Array) -> Array:
    """Index of the key block."""
    return jax.lax.shift_right_logical(code, _KEY) & (MOST_BLOCKS - 1)


def is_masked(code: Array) -> Array:
    """Whether the pair of blocks needs a mask."""
    return (code & _MASKED) != 0


def is_empty(code: Array) -> Array:
    """Whether the visit only writes zeros for a block that has no other visit."""
    return code < 0


def opens(code: Array) -> Array:
    """Whether this is the first visit of the stationary block."""
    return (code & _OPENS) != 0


def closes(code: Array) -> Array:
    """Whether this is the last visit of the stationary block."""
    return (code & _CLOSES) != 0


def window(
    shape: tuple[int, int],
    tokens: int,
    block_of: Callable[[Array], Array],
    head: Callable[..., Array | int] = lambda n: n,
) -> pl.BlockSpec:
    """Block spec of an array [B, heads, ., .] for the current visit.

    Args:
      shape: block shape of the last two axes.
      tokens: which of these two axes is split into blocks; the other is not split.
      block_of: index of the block, `query_of` or `key_of`.
      head: maps the grid indices, without the visit, to the head.
    """

    def index(n: Array, visit: Array, *rest: Any) -> tuple:
        *inner, code = rest
        block = [0, 0]
        block[tokens] = block_of(code[visit])
        return batch_of(code[visit]), head(n, *inner), *block

    return pl.BlockSpec((None, None, *shape), index)
