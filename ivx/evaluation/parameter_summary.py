"""Summarizes a parameter tree: shapes, norms, and non-finite values by layer.

`clu.parameter_overview` reports names, shapes, means and standard deviations, but neither norms nor
non-finite values, and one such value makes its statistics NaN; so it is not used.
"""

import dataclasses

import jax
import numpy as np

from ivx import progress
from ivx.models.definition import Params

# Path entries of arrays that stack all layers on a leading axis.
_STACKS = {"layers", "blocks", "deepstack_mergers"}
# Elements of a part.
_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array, with all layers if it is stacked.

    Attributes:
      path: dotted.
      shape: of the array.
      count: number of elements.
      norm: L2 norm of the finite elements.
      largest: largest magnitude of the finite elements.
      broken: number of non-finite elements.
      layers: layers of a stacked array that contain non-finite elements.
    """

    path: str
    shape: tuple[int, ...]
    count: int
    norm: float
    largest: float
    broken: int
    layers: tuple[int, ...]


def summarize(params: Params) -> list[Leaf]:
    """A summary of every array, in the order of the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [
        _leaf(jax.tree_util.keystr(path, simple=True, separator="."), np.asarray(array))
        for path, array in progress.track(leaves, len(leaves), "examining the arrays", "arrays")
    ]


def totals(leaves: list[Leaf]) -> list[Leaf]:
    """Summaries of each top-level part, then of the whole model as `all`; without shapes."""
    parts = {}
    for leaf in leaves:
        parts.setdefault(leaf.path.split(".")[0], []).append(leaf)
    return [_sum(name, part) for name, part in parts.items()] + [_sum("all", leaves)]


def _leaf(path: str, array: np.ndarray) -> Leaf:
    """Summarizes an array part by part, so that no second copy is held."""
    stacked = bool(_STACKS & set(path.split(".")))
    square, largest, broken, layers = 0.0, 0.0, 0, []
    for number, layer in enumerate(array if stacked else array[None]):
        flat, wrong = layer.reshape(-1), 0
        for first in range(0, flat.size, _BLOCK):
            block = np.abs(flat[first : first + _BLOCK])
            finite = np.isfinite(block)
            wrong += block.size - int(np.count_nonzero(finite))
            block = block[finite]
            # Summed in float64, so the norm of a billion float32 elements keeps its digits.
            square += float(np.square(block, dtype=np.float64).sum())
            largest = max(largest, float(block.max(initial=0)))
        broken += wrong
        layers += [number] if wrong and stacked else []
    return Leaf(path, array.shape, array.size, square**0.5, largest, broken, tuple(layers))


def _sum(name: str, leaves: list[Leaf]) -> Leaf:
    return Leaf(
        name,
        (),
        sum(leaf.count for leaf in leaves),
        float(np.linalg.norm([leaf.norm for leaf in leaves])),
        max(leaf.largest for leaf in leaves),
        sum(leaf.broken for leaf in leaves),
        (),
    )
