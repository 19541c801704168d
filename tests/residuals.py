"""The values that a differentiated function saves for its backward pass."""

import contextlib
import io
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

_LINE = re.compile(r"^(?P<type>[a-z]+[0-9a-z_]*)(?:<(?P<memory>\w+)>)?\[(?P<shape>[\d,]*)\]")


class Residual(NamedTuple):
    """Shape of a saved value, and whether it is stored in host memory."""

    shape: tuple[int, ...]
    on_host: bool

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def saved_residuals(function: Callable, *args: Any) -> list[Residual]:
    """The residuals that `jax.ad_checkpoint.print_saved_residuals` prints."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        jax.ad_checkpoint.print_saved_residuals(function, *args)
    residuals = []
    for line in output.getvalue().splitlines():
        match = _LINE.match(line)
        assert match, line
        shape = tuple(int(size) for size in match["shape"].split(",") if size)
        residuals.append(Residual(shape, "host" in (match["memory"] or "")))
    return residuals
