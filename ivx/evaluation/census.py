"""What lies in a parameter tree: shapes, norms, and numbers that are none."""

import dataclasses

import jax
import numpy as np

from ivx.models.definition import Params

# Parts whose arrays hold all layers, on a leading axis.
_STACKS = {"layers", "blocks", "deepstack_mergers"}


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array, all layers of a stack together.

    Attributes:
      path: dotted.
      shape: its sides.
      count: of numbers.
      norm: square root of the sum of squares of those that are finite.
      largest: largest magnitude of those.
      broken: how many are infinite or not a number.
      layers: where the array is a stack, the layers in which those lie.
    """

    path: str
    shape: tuple[int, ...]
    count: int
    norm: float
    largest: float
    broken: int
    layers: tuple[int, ...]


def take(params: Params) -> list[Leaf]:
    """Every array of a parameter tree, in the order of its keys."""
    return [
        _leaf(jax.tree_util.keystr(path, simple=True, separator="."), np.asarray(array))
        for path, array in jax.tree_util.tree_leaves_with_path(params)
    ]


def totals(leaves: list[Leaf]) -> list[Leaf]:
    """The same for each part of the model, and for the whole last; these have no shape."""
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
    # float64 sums of float32 numbers: a norm of a billion of them keeps its digits.
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
