"""Collectives on host numbers. All hosts must call them, and all get the same result.

On a single host nothing is communicated.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils


def total(values: Sequence[int | float]) -> np.ndarray:
    """Sums over all hosts, float64."""
    return gathered(values).sum(0)


def largest(values: Sequence[int]) -> list[int]:
    """Elementwise maximum over all hosts; exact up to 2^53."""
    return [int(value) for value in gathered(values).max(0)]


def agree(number: int) -> bool:
    """Whether all hosts passed the same number; exact up to 2^53."""
    return not np.ptp(gathered([number]))


def gathered(values: Sequence[float]) -> np.ndarray:
    """The values of all hosts, float64 [hosts, values]; every host passes the same number."""
    values = np.asarray(values, np.float64)
    if jax.process_count() == 1:
        return values[None]
    # JAX disables 64-bit types by default, so each number is sent as two 32-bit halves.
    halves = multihost_utils.process_allgather(values.view(np.uint32))
    return np.ascontiguousarray(halves).view(np.float64)
