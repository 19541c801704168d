"""Summarizes a parameter tree: shapes, norms, and non-finite values by layer.

`clu.parameter_overview` reports names, shapes, means and standard deviations, but neither norms nor
non-finite values, and one such value makes its statistics NaN; so it is not used.
"""

import dataclasses

import jax
import numpy as np

from ivx.models.definition import Params

# Path entries of arrays that stack all layers on a leading axis.
_STACKS = {"layers", "blocks", "deepstack_mergers"}


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
    return [
        _leaf(jax.tree_util.keystr(path, simple=True, separator="."), np.asarray(array))
        for path, array in jax.tree_util.tree_leaves_with_path(params)
    ]


def totals(leaves: list[Leaf]) -> list[Leaf]:
    """Summaries of each top-level part, then of the whole model as `all`; without shapes."""
    parts = {}
    for leaf in leaves:
        parts.setdefault(leaf.path.split(".")[0], []).append(leaf)
    return [_sum(name, part) for name, part in parts.items()] + [_sum("all", leaves)]


def _leaf(path: str, array: np.ndarray) -> Leaf:
    finite = np.isfinite(array)
    broken = array.size - int(np.count_nonzero(finite))
    layers = ()
    if broken:
        if _STACKS & set(path.split(".")):
            layers = tuple(np.flatnonzero(~finite.reshape(len(array), -1).all(1)).tolist())
        array = np.where(finite, array, 0)
    # Summed in float64, so the norm of a billion float32 elements keeps its digits.
    norm = float(np.sqrt(np.sum(np.square(array, dtype=np.float64))))
    return Leaf(
        path, array.shape, array.size, norm, float(np.abs(array).max(initial=0)), broken, layers
    )


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
