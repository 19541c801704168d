"""Sharding: one table from logical axes to mesh axes, for parameters, batches and activations.

A parameter carries the names of its axes as metadata `AXES`; stacked layers add an unnamed axis in
front. Each logical axis lists candidate mesh axes. `partition_spec` picks the candidate with the
most devices among those that divide the axis evenly; the last candidate is the minimum, and an
array that does not split there is an error, so nothing is replicated silently.

The compiler lays arrays out (Auto axes). It cannot see into a kernel or a hand-written collective,
so those ops read the ambient mesh (`current_mesh`) while they are traced and map themselves over
it. Without a mesh every function here is the identity, so the model reads the same on one device
and on a pod.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from ivx.errors import UserError

# Metadata key: logical names of a parameter's axes.
AXES = "logical_axes"
# Metadata key: logical axis -> size of the groups that must not be split, such as a head.
INDIVISIBLE = "indivisible"

# Packs are sharded over every mesh axis that does not split a pack.
BATCH = ("replica", "fsdp")
# Logical axis -> candidate mesh axes, in order of preference; the last is the minimum.
TABLE: dict[str, tuple[tuple[str, ...], ...]] = {
    # Parameters. They are also sharded over `context`, since each costs 12 bytes in training.
    "embed": (("fsdp", "context"), ("fsdp",)),
    "rank": (("fsdp", "context"), ("context",), ("fsdp",)),
    "mlp": (("tensor",),),
    "heads": (("tensor",),),
    # Few and small: replicated if they do not divide evenly.
    "kv_heads": (("tensor",), ()),
    "vocab": (("tensor",),),
    # The vision tower. Slices are sharded over all mesh axes, so none is left to split a product.
    # Weights are gathered when they are used.
    "patch_width": (
        ("fsdp", "tensor", "context"),
        ("fsdp", "context"),
        ("fsdp", "tensor"),
        ("context",),
        ("fsdp",),
    ),
    # Batches and activations.
    "pack": (BATCH,),
    "token": (("context",),),
    "slice_block": (("tensor", "context"),),
}
Axes = tuple[str | None, ...]


def partition_spec(
    name: str,
    shape: Sequence[int],
    logical: Sequence[str | None],
    mesh: Mesh | AbstractMesh,
    indivisible: Mapping[str, int] | None = None,
) -> PartitionSpec:
    """Partition spec of an array. Mesh axes of size 1 are left out.

    Args:
      name: name of the array, for messages.
      shape: sizes of its axes.
      logical: logical name of each axis, a key of `TABLE`; None does not shard the axis.
      mesh: the device mesh.
      indivisible: logical axis -> size of the groups that must not be split; default 1.

    Raises:
      UserError: the mesh axes do not divide an axis, or two axes map to the same mesh axis.
    """
    physical = []
    for size, axis in zip(shape, logical, strict=True):
        candidates = TABLE[axis] if axis else ((),)
        unit = (indivisible or {}).get(axis, 1)
        fitting = [c for c in candidates if _divides(size, unit, devices_along(c, mesh))]
        if candidates[-1] not in fitting:
            raise UserError(_misfit(name, size, unit, candidates[-1], mesh))
        best = max(fitting, key=lambda candidate: devices_along(candidate, mesh))
        physical.append(tuple(mesh_axis for mesh_axis in best if mesh.shape[mesh_axis] > 1))
    used = [mesh_axis for mesh_axes in physical for mesh_axis in mesh_axes]
    if len(used) != len(set(used)):
        raise UserError(
            f"{name} of shape {tuple(shape)}: axes {tuple(logical)} would use a mesh axis twice:"
            f" {tuple(physical)}; set that mesh axis to 1"
        )
    # A single name equals a tuple of one name, and prints better.
    return PartitionSpec(*(axes[0] if len(axes) == 1 else axes or None for axes in physical))


def preferred_spec(logical: Sequence[str | None], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """`partition_spec` without checking sizes: every axis gets its preferred mesh axes."""
    sizes = [devices_along(TABLE[axis][0], mesh) if axis else 1 for axis in logical]
    return partition_spec("an array", sizes, logical, mesh)


def parameter_shardings(abstract: nnx.State, mesh: Mesh | AbstractMesh) -> dict:
    """A sharding for each parameter of an abstract state, as a pure dict.

    Raises:
      UserError: as `partition_spec`.
    """

    def sharding(path: tuple, variable: nnx.Variable) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        shape, metadata = variable.get_value().shape, variable.get_metadata()
        logical = metadata.get(AXES, ())
        logical = (None,) * (len(shape) - len(logical)) + tuple(logical)
        return NamedSharding(
            mesh, partition_spec(name, shape, logical, mesh, metadata.get(INDIVISIBLE))
        )

    variables = dict(nnx.to_flat_state(abstract))
    return jax.tree_util.tree_map_with_path(
        lambda path, _: sharding(path, variables[tuple(entry.key for entry in path)]),
        nnx.to_pure_dict(abstract),
    )


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The sharding that replicates an array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def put_host_array(array: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """Shards an array that every host holds in full; each host transfers its devices' shards.

    `jax.device_put` would first compare the copies of all hosts element by element.
    """
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def place(array: jax.Array, sharding: jax.sharding.Sharding) -> jax.Array:
    """The array itself if it has this sharding, else a copy that has it."""
    if array.sharding.is_equivalent_to(sharding, array.ndim):
        return array
    return jax.device_put(array, sharding)


def current_mesh() -> AbstractMesh | None:
    """The mesh of `jax.set_mesh` if it has several devices and only Auto axes.

    None inside `jax.shard_map`, where every device computes by itself.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or any(kind != AxisType.Auto for kind in mesh.axis_types):
        return None
    return mesh


def under_mesh(mesh: Mesh, function: Callable) -> Callable:
    """`function`, traced with `mesh` as the ambient mesh. Its arguments must be on that mesh."""

    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args, **kwargs)

    return traced


def axes_dividing(size: int, axes: Sequence[str], mesh: AbstractMesh) -> tuple[str, ...]:
    """The longest prefix of `axes` whose devices divide `size`; axes of size 1 are left out."""
    axes = tuple(axis for axis in axes if mesh.shape.get(axis, 1) > 1)
    while size % math.prod(mesh.shape[axis] for axis in axes):
        axes = axes[:-1]
    return axes


def axis_size(axis: str) -> int:
    """Devices along an axis of the ambient mesh; 1 without a mesh."""
    mesh = current_mesh()
    return mesh.shape[axis] if mesh else 1


def constrain(array: jax.Array, *axes: str | None) -> jax.Array:
    """The array, with its sharding constrained by the logical names of its axes.

    Raises:
      UserError: as `partition_spec`.
    """
    mesh = current_mesh()
    if mesh is None:
        return array
    spec = partition_spec(f"an activation ({', '.join(map(str, axes))})", array.shape, axes, mesh)
    return jax.lax.with_sharding_constraint(array, spec)


def shard_map(
    function: Callable, inputs: tuple[Axes, ...], outputs: Axes | tuple[Axes, ...]
) -> Callable:
    """`function` on every device's shards, by `jax.shard_map`; the identity without a mesh.

    For ops that the compiler cannot partition: kernels and hand-written collectives.

    Args:
      function: function of the shards.
      inputs: logical axis names of each argument; every axis gets its preferred mesh axes.
      outputs: logical axis names of the result, or one tuple for each of several results.
    """
    mesh = current_mesh()
    if mesh is None:
        return function
    ins = tuple(preferred_spec(axes, mesh) for axes in inputs)
    single = all(axis is None or isinstance(axis, str) for axis in outputs)
    if single:
        outs = preferred_spec(outputs, mesh)
    else:
        outs = tuple(preferred_spec(axes, mesh) for axes in outputs)
    return jax.shard_map(function, mesh=mesh, in_specs=ins, out_specs=outs, check_vma=False)


def devices_along(axes: Sequence[str], mesh: Mesh | AbstractMesh) -> int:
    """The number of devices along these mesh axes together."""
    return math.prod(mesh.shape[axis] for axis in axes)


def _divides(size: int, unit: int, ways: int) -> bool:
    return size % (unit * ways) == 0


def _misfit(
    name: str, size: int, unit: int, mesh_axes: tuple[str, ...], mesh: Mesh | AbstractMesh
) -> str:
    """The message for an axis that does not divide, with the sizes that would."""
    devices = math.prod(mesh.shape.values())
    fitting = [n for n in range(1, devices + 1) if devices % n == 0 and _divides(size, unit, n)]
    parts = f"{size // unit} x {unit}, in groups of {unit}," if unit > 1 else size
    axis, ways = " x ".join(mesh_axes), devices_along(mesh_axes, mesh)
    return (
        f"{name}: an axis of {parts} cannot be split over {axis} = {ways};"
        f" of {devices} devices, {axis} = {', '.join(map(str, fitting))} would fit"
    )
