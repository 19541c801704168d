"""The mesh around: how an op that speaks across devices learns where its arrays lie.

Arrays are laid out by the compiler (Auto axes), which cannot see into a kernel or a loop. Such ops
map themselves over the mesh that is ambient while they are traced (`zigzag.current_mesh`); without
one they work on one device, and the compiler spreads them as it can.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
from jax.sharding import AbstractMesh, Mesh


def under(mesh: Mesh, function: Callable) -> Callable:
    """`function`, traced with `mesh` around; its arguments have to lie on that mesh."""

    @functools.wraps(function)
    def traced(*args, **kwargs):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args, **kwargs)

    return traced


def dividing(size: int, axes: Sequence[str], mesh: AbstractMesh) -> tuple[str, ...]:
    """The first of `axes`, as many as divide `size` between them; those of size 1 left out."""
    axes = tuple(axis for axis in axes if mesh.shape.get(axis, 1) > 1)
    while size % math.prod(mesh.shape[axis] for axis in axes):
        axes = axes[:-1]
    return axes
