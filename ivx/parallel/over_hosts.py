"""Numbers that the hosts of a run put together: every host has to ask, and hears the same.

On one host nothing travels.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils


def total(values: Sequence[float]) -> np.ndarray:
    """Sums over all hosts, float64."""
    return gathered(values).sum(0)


def largest(values: Sequence[int]) -> list[int]:
    """The largest of all hosts, of each; exact up to 2^53."""
    return [int(value) for value in gathered(values).max(0)]


def agree(number: int) -> bool:
    """Whether all hosts have the same number, exact up to 2^53."""
    return not np.ptp(gathered([number]))


def gathered(values: Sequence[float]) -> np.ndarray:
    """Those of all hosts, as many of each: float64 [hosts, values]."""
    values = np.asarray(values, np.float64)
    if jax.process_count() == 1:
        return values[None]
    # JAX has no 64 bits by default: the halves of a number travel.
    halves = multihost_utils.process_allgather(values.view(np.uint32))
    return np.ascontiguousarray(halves).view(np.float64)
