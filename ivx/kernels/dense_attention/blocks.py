"""What the kernels of dense attention share: sizes of blocks, and what is done with one.

Shapes: of one head; keys are rows and queries columns of scores [S, T].
"""

import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array

from ivx.kernels.dense_attention import schedule

# Queries and keys of one visit; multiples of TILE.
BLOCK = 1024
QUERIES = 1024
# Queries (or keys) whose scores are made in one go, for the width of the matrix unit.
TILE = 256
MODE = 4
GATE = 0
CHUNK = 256
STRIP = 64
ONLY = 0
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


def q_block_for(length: int) -> int:
    """Queries of a visit."""
    return min(QUERIES, -(-length // 128) * 128)


def scaled(q: Array, scale: float) -> Array:
    """Queries whose products with keys are scores in base 2, once for all keys that they meet."""
    return (q.astype(jnp.float32) * (scale * LOG2E)).astype(q.dtype)


def visible(first_1t: Array, last_1t: Array, key_begin: Array | int, keys: int) -> Array:
    """Whether key_begin + s is seen by query t, bool [S, T]."""
    shape = (keys, first_1t.shape[1])
    key = key_begin + jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    return (key >= first_1t) & (key <= last_1t)


def tiles(size: int) -> list[pl.Slice]:
    """A block of this many tokens in parts, which do not wait for each other."""
    tile = math.gcd(TILE, size)
    return [pl.ds(begin, tile) for begin in range(0, size, tile)]


def product(a: Array, b: Array, contract: tuple[int, int]) -> Array:
    """a b over these axes, accumulated in float32."""
    return jax.lax.dot_general(
        a, b, (((contract[0],), (contract[1],)), ((), ())), preferred_element_type=jnp.float32
    )


def strips(fold, so_far: Array | None, rows: Array) -> Array:
    """Folds rows into a strip of STRIP rows: long chains of dependent operations would wait."""
    for begin in range(0, rows.shape[0], STRIP):
        strip = rows[begin : begin + STRIP]
        so_far = strip if so_far is None else fold(so_far, strip)
    return so_far


def after(operand: Array, scores: Array | None) -> Array:
    """`operand`, not to be used before `scores` are there: adds zeros that are read off them.

    The compiler's scheduler starts whatever product it can, those of all tiles of a block, and is
    then left with all their exponentials at once. A product that has to wait for the one before
    leaves its exponentials the time of the next.
    """
    if scores is None or not GATE:
        return operand
    row = scores[-1:, :128]
    zero = jnp.where(row > 1e37, 1.0, 0.0).astype(operand.dtype)
    return operand + jnp.concatenate([zero] * (operand.shape[1] // 128), 1)
