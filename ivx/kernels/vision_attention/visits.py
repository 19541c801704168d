"""Which tiles of rows share a slice, and so have to visit each other.

Rows are cut into tiles of `tile`. Slices are runs of rows, numbered as they lie, so that a tile of
queries meets the tiles from that in which its first slice begins to that in which its last one
ends:

    rows      1 1 1 1 2 2 | 2 2 2 2 3 3 | 3 3 0 0 0 0 | 4 4 4 4 4 4       | tile
    visits    0 -> 0 1      1 -> 0 1 2    2 -> 1 2      3 -> 3

The relation is symmetric: the same list serves tiles of keys that look for their queries. It is
made on the device, from slices that do not change the shape of the program.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


class Spans(NamedTuple):
    """The first and the last tile that each tile visits; of one without slices, itself."""

    first: Int[Array, " tiles"]
    last: Int[Array, " tiles"]


class Visits(NamedTuple):
    """Pairs of tiles, those of one `own` side by side: the first `count` are real.

    A pair is one number, `own` above and `other` below its lowest 16 bits: the list stands in the
    scalar memory of a core, which is small. Behind the real ones `own` is -1, so that its change
    tells the last visit of a tile.
    """

    pairs: Int[Array, " visits"]
    count: Int[Array, ""]


# Tiles that a pair can name, and pairs that scalar memory has room for: 512 KiB.
MOST_TILES, MOST_PAIRS = 2**15, 2**17


def own(pair: Int[Array, ""]) -> Int[Array, ""]:
    """The tile that visits."""
    return jax.lax.shift_right_arithmetic(pair, 16)


def other(pair: Int[Array, ""]) -> Int[Array, ""]:
    """The tile that is visited."""
    return jax.lax.bitwise_and(pair, 0xFFFF)


def room(rows: int, tile: int, block: int) -> int:
    """Pairs that there may be: slices that fill blocks of `block` rows."""
    tiles = -(-rows // tile)
    # A tile within a block meets the tiles of that block, one across blocks those of two.
    most = block // tile if block % tile == 0 else 2 * -(-block // tile) + 1
    return tiles * min(tiles, most)


def number(slices_bx: Int[Array, "b x"]) -> Int[Array, " r"]:
    """Slices of all packs as numbers that no two packs share; padding stays 0."""
    packs = jnp.arange(slices_bx.shape[0], dtype=slices_bx.dtype)[:, None]
    apart = slices_bx + packs * (slices_bx.shape[1] + 1)
    return jnp.where(slices_bx > 0, apart, 0).reshape(-1)


def spans(slices_r: Int[Array, " r"], tile: int) -> Spans:
    """Whom each tile visits; `tile` divides R, and numbers of slices never fall along the rows.

    Tiles are compared with tiles: a few hundred squared cost less than sums along all rows, which
    a TPU's compiler turns into programs of enormous length.
    """
    tiles = slices_r.reshape(-1, tile)
    low = jnp.where(tiles > 0, tiles, jnp.iinfo(tiles.dtype).max).min(1)
    high, number = tiles.max(1), jnp.arange(len(tiles))
    earlier = number[None] < number[:, None]
    before = (earlier & (high[None] >= low[:, None])).sum(1)
    after = (earlier.T & (low[None] <= high[:, None])).sum(1)
    return Spans(number - before, number + after)


def visits(slices_r: Int[Array, " r"], tile: int, block: int) -> Visits:
    """All pairs of the tiles of rows in blocks of `block`."""
    first, last = spans(slices_r, tile)
    ends = jnp.cumsum(last - first + 1)
    begins = ends - (last - first + 1)
    place = jnp.arange(room(len(slices_r), tile, block))
    # Steps of two staircases over the places: the tile that visits, and the tile visited there.
    begun = begins[None] <= place[:, None]
    mine = begun.sum(1) - 1
    theirs = place + jnp.where(begun, jnp.diff(first - begins, prepend=0), 0).sum(1)
    pairs = jnp.where(place < ends[-1], (mine << 16) + theirs, -1)
    return Visits(
        jnp.concatenate([pairs, jnp.full(1, -1)]).astype(jnp.int32), ends[-1].astype(jnp.int32)
    )
