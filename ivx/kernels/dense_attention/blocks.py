"""Block sizes and block operations that the forward and the backward kernel share.

Shapes: of one head; in scores [S, T], keys are rows and queries are columns.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array

from ivx.kernels.dense_attention import packed_visits

# Queries and keys per visit. The forward kernel takes twice as many queries where the length allows
# it, since decoding a visit and checking maxima have a fixed cost.
BLOCK = 1024
# Queries per score product, forward: enough operands for all matrix units.
TILE = 1024
# Queries or keys per product, backward.
BACKWARD_TILE = 256
# Rows of scores that are reduced in parallel.
STRIP = 64
# Largest allowed rise of a row maximum within a visit, as a power of 2, if the weights of the visit
# use the earlier maximum. The exponents of float32 and bfloat16 end at 127.
HEADROOM = 64.0
# The softmax uses base 2, which the hardware supports directly.
LOG2E = 1.4426950408889634
VMEM_LIMIT = 48 * 2**20


def constraint(q_bkgth: Array, k_bksh: Array, v_bksv: Array) -> str:
    """The constraint of the kernels that these shapes violate, or an empty string."""
    batch, _, _, length, width = q_bkgth.shape
    values = v_bksv.shape[-1]
    if width % 128 or values % 128:
        return f"key width {width} and value width {values} must be multiples of 128"
    if batch > packed_visits.MOST_BATCH:
        return f"batch size {batch} per device exceeds {packed_visits.MOST_BATCH}"
    if max(length, k_bksh.shape[2]) > BLOCK * packed_visits.MOST_BLOCKS:
        return f"length exceeds {BLOCK * packed_visits.MOST_BLOCKS} tokens"
    return ""


def block_for(length: int) -> int:
    """BLOCK, or a smaller multiple of 128 for a short sequence."""
    return min(BLOCK, -(-length // 128) * 128)


def forward_block(length: int) -> int:
    """Queries per visit of the forward kernel; `length` is a multiple of its `block_for`."""
    block = block_for(length)
    return block if length % (2 * block) else 2 * block


def scale_queries(q: Array, scale: float) -> Array:
    """Scales queries once, so that their products with keys are base-2 scores."""
    return (q.astype(jnp.float32) * (scale * LOG2E)).astype(q.dtype)


def visible(first_1t: Array, last_1t: Array, key_begin: Array | int, keys: int) -> Array:
    """Whether query t attends to key key_begin + s, bool [S, T]."""
    shape = (keys, first_1t.shape[1])
    key = key_begin + jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    return (key >= first_1t) & (key <= last_1t)


def tiles(size: int, most: int) -> list[pl.Slice]:
    """Splits a block of `size` tokens into independent tiles of at most `most`."""
    tile = math.gcd(most, size)
    return [pl.ds(begin, tile) for begin in range(0, size, tile)]


def product(a: Array, b: Array, contract: tuple[int, int]) -> Array:
    """Contracts these axes of a and b, accumulating in float32."""
    return jax.lax.dot_general(
        a, b, (((contract[0],), (contract[1],)), ((), ())), preferred_element_type=jnp.float32
    )


def reduce_strips(reduce: Callable[[Array, Array], Array], rows: Array) -> Array:
    """Reduces rows to STRIP rows. A single chain of dependent operations would stall."""
    parts = [rows[begin : begin + STRIP] for begin in range(0, rows.shape[0], STRIP)]
    return functools.reduce(reduce, parts)
