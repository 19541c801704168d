"""Which tiles of rows share a slice, and so have to visit each other.

Rows are cut into tiles of `tile`. Slices are runs of rows, so that a tile of queries meets the
tiles from that in which its first slice begins to that in which its last one ends:

    rows      1 1 1 1 2 2 | 2 2 2 2 3 3 | 3 3 0 0 0 0 | 4 4 4 4 4 4       | tile
    visits    0 -> 0 1      1 -> 0 1 2    2 -> 1 2      3 -> 3

The relation is symmetric: the same list serves tiles of keys that look for their queries. All of it
is made on the device in O(rows), from what does not change the shape of the program.
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
    """Whom each tile visits; `tile` divides R, and the rows of a slice lie side by side."""
    rows = jnp.arange(len(slices_r))
    change = slices_r[1:] != slices_r[:-1]
    begins = jnp.concatenate([jnp.ones(1, bool), change])
    ends = jnp.concatenate([change, jnp.ones(1, bool)])
    first_r = jax.lax.cummax(jnp.where(begins, rows, 0))
    last_r = jax.lax.cummin(jnp.where(ends, rows, len(rows)), reverse=True)
    # Padding visits its own tile, which writes what nobody reads.
    real = slices_r > 0
    first_r, last_r = (jnp.where(real, a, rows).reshape(-1, tile) for a in (first_r, last_r))
    return Spans(first_r.min(1) // tile, last_r.max(1) // tile)


def visits(slices_r: Int[Array, " r"], tile: int, block: int) -> Visits:
    """All pairs of the tiles of rows in blocks of `block`."""
    first, last = spans(slices_r, tile)
    counts = last - first + 1
    before, count = jnp.cumsum(counts) - counts, counts.sum()
    place = jnp.arange(room(len(slices_r), tile, block))
    mine = jnp.repeat(jnp.arange(len(first)), counts, total_repeat_length=len(place))
    theirs = first[mine] + place - before[mine]
    pairs = jnp.where(place < count, (mine << 16) + theirs, -1)
    return Visits(
        jnp.concatenate([pairs, jnp.full(1, -1)]).astype(jnp.int32), count.astype(jnp.int32)
    )
