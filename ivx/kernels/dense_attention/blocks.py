"""What the kernels of dense attention share: sizes of blocks, and what is done with one.

Shapes: of one head; keys are rows and queries columns of scores [S, T].
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array

from ivx.kernels.dense_attention import schedule

# Queries and keys of one visit; forward, twice as many queries where the sequence allows it, since
# looking up the next visit and checking maxima cost the same for any number.
BLOCK = 1024
# Queries whose scores are made in one go, forward: several operands for each matrix unit.
TILE = 1024
# Queries, or keys, whose slopes are made in one go, backward.
BACKWARD_TILE = 256
# Rows of scores that are folded side by side.
STRIP = 64
# How far, as a power of 2, maxima may rise within a visit whose weights were held against earlier
# ones; float32 and bfloat16 end at 127.
HEADROOM = 64.0
# Softmax in base 2, the base of the hardware.
LOG2E = 1.4426950408889634
VMEM_LIMIT = 48 * 2**20


def constraint(q_bkgth: Array, k_bksh: Array, v_bksv: Array) -> str:
    """What of these shapes the kernels do not take; empty where they take them."""
    batch, _, _, length, width = q_bkgth.shape
    values = v_bksv.shape[-1]
    if width % 128 or values % 128:
        return f"widths of keys {width} and of values {values} must be multiples of 128"
    if batch > schedule.MOST_BATCH:
        return f"a batch of {batch} on a device is more than {schedule.MOST_BATCH}"
    if max(length, k_bksh.shape[2]) > BLOCK * schedule.MOST_BLOCKS:
        return f"more than {BLOCK * schedule.MOST_BLOCKS} tokens"
    return ""


def block_for(length: int) -> int:
    """BLOCK, or less for a short sequence."""
    return min(BLOCK, -(-length // 128) * 128)


def forward_block(length: int) -> int:
    """Queries of a visit of the forward kernel; `length` is a multiple of `block_for` of it."""
    block = block_for(length)
    return block if length % (2 * block) else 2 * block


def scaled(q: Array, scale: float) -> Array:
    """Queries whose products with keys are scores in base 2, once for all keys that they meet."""
    return (q.astype(jnp.float32) * (scale * LOG2E)).astype(q.dtype)


def visible(first_1t: Array, last_1t: Array, key_begin: Array | int, keys: int) -> Array:
    """Whether key_begin + s is seen by query t, bool [S, T]."""
    shape = (keys, first_1t.shape[1])
    key = key_begin + jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    return (key >= first_1t) & (key <= last_1t)


def tiles(size: int, most: int) -> list[pl.Slice]:
    """A block of this many tokens in parts of at most `most`, which do not wait for each other."""
    tile = math.gcd(most, size)
    return [pl.ds(begin, tile) for begin in range(0, size, tile)]


def product(a: Array, b: Array, contract: tuple[int, int]) -> Array:
    """a b over these axes, accumulated in float32."""
    return jax.lax.dot_general(
        a, b, (((contract[0],), (contract[1],)), ((), ())), preferred_element_type=jnp.float32
    )


def strips(fold: Callable[[Array, Array], Array], rows: Array) -> Array:
    """Folds rows into a strip of STRIP rows: one long chain of dependent operations would wait."""
    parts = [rows[begin : begin + STRIP] for begin in range(0, rows.shape[0], STRIP)]
    return functools.reduce(fold, parts)
