"""Numbers as sums of digits of one byte, for matrix units that multiply bytes.

    x ~ d_0 + d_1 / steps + d_2 / steps^2 + ...        |x| <= unit

Entries of a byte meet queries and weights of several: the digits of a row are rows of one product,
and these cost next to nothing where a unit is busy with taking the entries in.

int8: steps of 128, cut towards zero. Two digits of a query keep 14 bits of the largest number of
its row. Weights take three, 21 bits of the largest, since many thousands of small ones may weigh
more than the largest does. float8_e4m3fn: steps of 16, rounded; two digits keep 8 bits of every
number, as bfloat16 does.
"""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Digits:
    """A kind of digit.

    Attributes:
      dtype: of a digit.
      unit: the largest number whose digits fit, a hair below what would not.
      steps: that a digit has in one of the digit before.
      sums: dtype of products summed.
      queries: digits of a query.
      weights: digits of a weight.
    """

    dtype: jnp.dtype
    unit: float
    steps: float
    sums: jnp.dtype
    queries: int
    weights: int


_HAIR = 1 - 2.0**-20
KINDS = {
    jnp.dtype(kind.dtype): kind
    for kind in (
        Digits(jnp.int8, 128 * _HAIR, 128.0, jnp.int32, queries=2, weights=3),
        Digits(jnp.float8_e4m3fn, 448 * _HAIR, 16.0, jnp.float32, queries=2, weights=2),
    )
}


def split(x: jax.Array, kind: Digits, count: int) -> jax.Array:
    """float32 [.., m, n] -> digits [.., count * m, n], the first ones of all rows first."""
    parts, cut = [], jnp.int32 if kind.dtype == jnp.int8 else kind.dtype
    for _ in range(count):
        parts.append(x.astype(cut))
        x = (x - parts[-1].astype(jnp.float32)) * kind.steps
    return jnp.concatenate(parts, -2).astype(kind.dtype)


def join(sums: jax.Array, kind: Digits, count: int) -> jax.Array:
    """Products of digits [count * m, n] -> those of the numbers, float32 [m, n]."""
    parts = jnp.split(sums.astype(jnp.float32), count)
    return sum(part * kind.steps**-place for place, part in enumerate(parts))
