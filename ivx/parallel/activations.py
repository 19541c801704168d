"""Where activations lie: what the model says of them when it is traced with a mesh around.

Without a mesh (`ivx.parallel.zigzag.current_mesh`) all of this is nothing, so that the model reads
the same on one device and on a pod.
"""

from collections.abc import Callable

import jax

from ivx.parallel import rules, zigzag

Axes = tuple[str | None, ...]


def ways(axis: str) -> int:
    """Devices along an axis of the mesh around; 1 without one."""
    mesh = zigzag.current_mesh()
    return mesh.shape[axis] if mesh else 1


def constrain(array: jax.Array, *axes: str | None) -> jax.Array:
    """The array, laid out by the logical names of its axes (of `rules.TABLE`).

    Raises:
      UserError: as `rules.spec`.
    """
    mesh = zigzag.current_mesh()
    if mesh is None:
        return array
    place = rules.spec(f"an activation ({', '.join(map(str, axes))})", array.shape, axes, mesh)
    return jax.lax.with_sharding_constraint(array, place)


def split(function: Callable, inputs: tuple[Axes, ...], outputs) -> Callable:
    """`function` on every device's part of its arguments, by `jax.shard_map`.

    For what the compiler cannot split by itself: kernels, and collectives written by hand.

    Args:
      function: of arrays; sees parts.
      inputs: for each argument the logical names of its axes, which lie on their best places.
      outputs: the same of what it returns; a tuple of such where it returns several.
    """
    mesh = zigzag.current_mesh()
    if mesh is None:
        return function
    ins = tuple(rules.placed(axes, mesh) for axes in inputs)
    one = all(axis is None or isinstance(axis, str) for axis in outputs)
    outs = rules.placed(outputs, mesh) if one else tuple(rules.placed(o, mesh) for o in outputs)
    return jax.shard_map(function, mesh=mesh, in_specs=ins, out_specs=outs, check_vma=False)
