"""The pairs of tiles that share a slice, and are therefore visited.

Rows are split into tiles of `tile` rows. Slices are runs of rows with ascending ids. So a tile of
queries visits the tiles from the one where its first slice begins to the one where its last slice
ends:

    rows      1 1 1 1 2 2 | 2 2 2 2 3 3 | 3 3 0 0 0 0 | 4 4 4 4 4 4       | tile
    visits    0 -> 0 1      1 -> 0 1 2    2 -> 1 2      3 -> 3

The relation is symmetric, so the same list serves tiles of keys that visit their queries. It is
computed on the device from the slice ids, which do not affect the shape of the program.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


class Spans(NamedTuple):
    """First and last tile that each tile visits; a tile without slices visits itself."""

    first: Int[Array, " tiles"]
    last: Int[Array, " tiles"]


class Visits(NamedTuple):
    """Pairs of tiles, grouped by the visiting tile; entries from `count` on are unused.

    A pair is packed into one int32, since the list is prefetched to the small scalar memory of a
    core: the visiting tile in the upper bits, the visited tile in the lower 16 bits. In unused
    entries the visiting tile is -1, so a change of the visiting tile marks its last visit.
    """

    pairs: Int[Array, " visits"]
    count: Int[Array, ""]


# Largest tile index of a pair, and number of pairs that fit in scalar memory: 512 KiB.
MOST_TILES, MOST_PAIRS = 2**15, 2**17


def visiting_tile(pair: Int[Array, "*v"]) -> Int[Array, "*v"]:
    """The tile that visits."""
    return jax.lax.shift_right_arithmetic(pair, 16)


def visited_tile(pair: Int[Array, "*v"]) -> Int[Array, "*v"]:
    """The tile that is visited."""
    return jax.lax.bitwise_and(pair, 0xFFFF)


def max_pairs(rows: int, tile: int, block: int) -> int:
    """Maximum number of pairs, reached if slices fill blocks of `block` rows."""
    tiles = -(-rows // tile)
    # A tile within a block visits the tiles of that block; a tile across blocks, those of two.
    most = block // tile if block % tile == 0 else 2 * -(-block // tile) + 1
    return tiles * min(tiles, most)


def global_ids(slices_bx: Int[Array, "b x"]) -> Int[Array, " r"]:
    """Slice ids that are unique across packs, flattened; padding stays 0."""
    packs = jnp.arange(slices_bx.shape[0], dtype=slices_bx.dtype)[:, None]
    unique = slices_bx + packs * (slices_bx.shape[1] + 1)
    return jnp.where(slices_bx > 0, unique, 0).reshape(-1)


def spans(slices_r: Int[Array, " r"], tile: int) -> Spans:
    """The span of tiles that each tile visits; `tile` divides R, and ids ascend along the rows.

    Compares tiles with tiles. A few hundred squared comparisons cost less than cumulative sums over
    all rows, which the TPU compiler turns into extremely long programs.
    """
    tiles = slices_r.reshape(-1, tile)
    low = jnp.where(tiles > 0, tiles, jnp.iinfo(tiles.dtype).max).min(1)
    high, index = tiles.max(1), jnp.arange(len(tiles))
    earlier = index[None] < index[:, None]
    before = (earlier & (high[None] >= low[:, None])).sum(1)
    after = (earlier.T & (low[None] <= high[:, None])).sum(1)
    return Spans(index - before, index + after)


def list_visits(slices_r: Int[Array, " r"], tile: int, block: int) -> Visits:
    """All pairs of tiles to visit, for rows in blocks of `block`."""
    first, last = spans(slices_r, tile)
    ends = jnp.cumsum(last - first + 1)
    begins = ends - (last - first + 1)
    position = jnp.arange(max_pairs(len(slices_r), tile, block))
    # Two step functions of the position in the list: the visiting tile and the visited tile.
    begun = begins[None] <= position[:, None]
    visiting = begun.sum(1) - 1
    visited = position + jnp.where(begun, jnp.diff(first - begins, prepend=0), 0).sum(1)
    pairs = jnp.where(position < ends[-1], (visiting << 16) + visited, -1)
    return Visits(
        jnp.concatenate([pairs, jnp.full(1, -1)]).astype(jnp.int32), ends[-1].astype(jnp.int32)
    )
