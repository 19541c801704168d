"""Splits floats into sums of low-precision terms, for matrix units that multiply int8 or fp8.

    x ~ t_0 + t_1 / base + t_2 / base^2 + ...        |x| <= max_abs

Cached entries of one byte are multiplied with queries and weights of several terms. The terms of a
row become rows of one product. They cost little while the matrix unit is busy loading entries.

int8: base 128, truncated towards zero. Two terms of a query keep 14 bits relative to the largest
number of its row. Weights use three terms, 21 bits relative to the largest, since many thousands of
small weights may outweigh the largest. float8_e4m3fn: base 16, rounded. Two terms keep 8 bits of
every number, as bfloat16 does.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


@dataclasses.dataclass(frozen=True)
class SplitFormat:
    """A low-precision format of terms.

    Attributes:
      dtype: dtype of a term.
      max_abs: largest representable magnitude, slightly below the limit of the dtype.
      base: ratio between the scales of consecutive terms.
      accumulator: dtype of the products' sums.
      query_terms: terms of a query.
      weight_terms: terms of a weight.
    """

    dtype: DTypeLike
    max_abs: float
    base: float
    accumulator: jnp.dtype
    query_terms: int
    weight_terms: int


# Keeps rounding in the scaling from exceeding the range.
_MARGIN = 1 - 2.0**-20
FORMATS = {
    fmt.dtype: fmt
    for fmt in (
        SplitFormat(
            jnp.dtype(jnp.int8),
            128 * _MARGIN,
            128.0,
            jnp.dtype(jnp.int32),
            query_terms=2,
            weight_terms=3,
        ),
        SplitFormat(
            jnp.dtype(jnp.float8_e4m3fn),
            448 * _MARGIN,
            16.0,
            jnp.dtype(jnp.float32),
            query_terms=2,
            weight_terms=2,
        ),
    )
}


def split(x: jax.Array, fmt: SplitFormat, terms: int) -> jax.Array:
    """Splits float32 [.., m, n] into terms [.., terms * m, n], the first term of all rows first."""
    parts, cast = [], jnp.int32 if fmt.dtype == jnp.int8 else fmt.dtype
    for _ in range(terms):
        parts.append(x.astype(cast))
        x = (x - parts[-1].astype(jnp.float32)) * fmt.base
    return jnp.concatenate(parts, -2).astype(fmt.dtype)


def combine(products: jax.Array, fmt: SplitFormat, terms: int) -> jax.Array:
    """Combines products of terms [terms * m, n] into products of the numbers, float32 [m, n]."""
    parts = jnp.split(products.astype(jnp.float32), terms)
    return sum(part * fmt.base**-index for index, part in enumerate(parts))
