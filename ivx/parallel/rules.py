"""From logical axes to the mesh: one table for parameters, batches and activations.

A parameter carries the names of its axes as metadata `AXES`; stacked layers add an unnamed axis in
front. An axis with several places lies on the one, of those that divide it, with most devices: the
1,152 numbers of a patch split over 128 devices, and over no more. The last place is the least that
is asked for, and an array that does not split there is an error: nothing is silently whole.
"""

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from data_pipelines import packing
from data_pipelines.batch import Batch
from ivx.errors import UserError
from ivx.parallel.shares import pack_share

# Metadata key under which a parameter carries the names of its axes.
AXES = "logical_axes"
# Metadata key: logical axis -> how many neighbours on it stay together, such as those of a head.
TOGETHER = "together"

# Packs are spread over every axis that does not split a pack.
BATCH = ("replica", "fsdp")
# Logical axis -> the mesh axes on which it may lie, the best place first, the least last.
TABLE: dict[str, tuple[tuple[str, ...], ...]] = {
    # Parameters. What splits a pack splits them too, since 12 bytes a number are kept of each.
    "embed": (("fsdp", "context"), ("fsdp",)),
    "rank": (("fsdp", "context"), ("context",), ("fsdp",)),
    "mlp": (("tensor",),),
    "heads": (("tensor",),),
    # Few and small: where they cannot be shared out evenly, every device has all of them.
    "kv_heads": (("tensor",), ()),
    "vocab": (("tensor",),),
    # Of the vision tower: slices are spread over every axis, so that no axis is left to split a
    # product; weights are gathered when they are used.
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
# Fields of a batch whose second axis is one of patches; of the others only packs are split.
_OF_PATCHES = ("patches", "slices", "grid")


def spec(
    name: str,
    shape: Sequence[int],
    logical: Sequence[str | None],
    mesh: Mesh | AbstractMesh,
    together: Mapping[str, int] | None = None,
) -> PartitionSpec:
    """Where an array lies. Axes of a mesh that have size 1 are left out.

    Args:
      name: of the array, for messages.
      shape: its sizes.
      logical: a name of `TABLE` for each axis; None leaves it whole.
      mesh: whose sizes count.
      together: logical axis -> how many neighbours on it must not be parted; 1 if absent.

    Raises:
      UserError: an axis that its mesh axes do not divide, or two axes of one array on the same
        mesh axis.
    """
    physical = []
    for size, axis in zip(shape, logical, strict=True):
        places = TABLE[axis] if axis else ((),)
        unit = (together or {}).get(axis, 1)
        fitting = [place for place in places if _divides(size, unit, _ways(place, mesh))]
        if places[-1] not in fitting:
            raise UserError(_misfit(name, size, unit, places[-1], mesh))
        found = max(fitting, key=lambda place: _ways(place, mesh))
        physical.append(tuple(one for one in found if mesh.shape[one] > 1))
    used = [one for axes in physical for one in axes]
    if len(used) != len(set(used)):
        raise UserError(
            f"{name} of shape {tuple(shape)}: its axes {tuple(logical)} would lie twice on one"
            f" mesh axis, {tuple(physical)}; set the mesh axis that stands there twice to 1"
        )
    # A lone name is the same as a tuple of it, and reads better.
    return PartitionSpec(*(axes[0] if len(axes) == 1 else axes or None for axes in physical))


def parameter_shardings(abstract: nnx.State, mesh: Mesh) -> dict:
    """A sharding for each parameter of an abstract state, as the pure dict that training works on.

    Raises:
      UserError: as `spec`.
    """

    def sharding(path, variable: nnx.Variable) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        shape, metadata = variable.get_value().shape, variable.get_metadata()
        logical = metadata.get(AXES, ())
        logical = (None,) * (len(shape) - len(logical)) + tuple(logical)
        return NamedSharding(mesh, spec(name, shape, logical, mesh, metadata.get(TOGETHER)))

    variables = dict(nnx.to_flat_state(abstract))
    return jax.tree_util.tree_map_with_path(
        lambda path, _: sharding(path, variables[tuple(entry.key for entry in path)]),
        nnx.to_pure_dict(abstract),
    )


def placed(logical: Sequence[str | None], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """As `spec`, of an array whose sizes are not looked at: every axis lies on its best place."""
    sizes = [_ways(TABLE[axis][0], mesh) if axis else 1 for axis in logical]
    return spec("an array", sizes, logical, mesh)


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def put_whole(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Spreads an array that every host has the whole of; each sends what its devices hold.

    `jax.device_put` would first compare the copies of all hosts, number by number.
    """
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def put_batch(batch, mesh: Mesh):
    """Sends a host's share of a batch to its devices; all hosts' parts form one global array.

    Packs are spread over replica and fsdp, and the patches of a pack by slice over tensor and
    context too: padding is added until each device has as many slice blocks.

    Raises:
      UserError: packs that cannot be spread evenly.
    """
    share = pack_share(mesh)

    def put(path, array):
        # Packs of a place; that of a device is found among those that this host has read.
        rows, rest = divmod(len(array), len(share.places))
        if rest or not rows:
            raise UserError(
                f"{len(array)} packs cannot be spread over the {len(share.places)} parts of"
                " replica x fsdp that this host has; give a multiple"
            )

        def part(index: tuple[slice, ...]):
            place = (index[0].start or 0) // rows
            first = share.places.index(place) * rows
            return array[(slice(first, first + rows), *index[1:])]

        shape = (len(array) * share.count, *array.shape[1:])
        return jax.make_array_from_callback(shape, _batch_sharding(path, array.ndim, mesh), part)

    return jax.tree_util.tree_map_with_path(put, _filled(batch, mesh))


def own_rows(array: np.ndarray, mesh: Mesh) -> np.ndarray:
    """What of a whole array [B, ...] belongs to the packs, or prompts, of this host.

    The rows of what this host gave to `put_batch`, in their order.
    """
    places = mesh.shape["replica"] * mesh.shape["fsdp"]
    by_place = array.reshape(places, -1, *array.shape[1:])
    return by_place[list(pack_share(mesh).places)].reshape(-1, *array.shape[1:])


def abstract_batch(batch, packs: int, mesh: Mesh):
    """Shapes of the global arrays that `put_batch` makes of a batch with so many packs in all."""

    def shape(path, array):
        sharding = _batch_sharding(path, array.ndim, mesh)
        return jax.ShapeDtypeStruct((packs, *array.shape[1:]), array.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(shape, _filled(batch, mesh))


def _filled(batch, mesh: Mesh):
    """The batch with as many slice blocks for each device."""
    parts = _ways(TABLE["slice_block"][0], mesh)
    return jax.tree.map(
        lambda part: packing.pad_patches(part, parts) if isinstance(part, Batch) else part,
        batch,
        is_leaf=lambda part: isinstance(part, Batch),
    )


def _batch_sharding(path, rank: int, mesh: Mesh) -> NamedSharding:
    """Where an array of a batch lies: packs are split, and what patches have by slice blocks."""
    logical = ["pack"] + [None] * (rank - 1)
    if path and getattr(path[-1], "name", "") in _OF_PATCHES:
        logical[1] = "slice_block"
    return NamedSharding(mesh, placed(logical, mesh))


def _ways(axes: Sequence[str], mesh: Mesh | AbstractMesh) -> int:
    return math.prod(mesh.shape[axis] for axis in axes)


def _divides(size: int, unit: int, ways: int) -> bool:
    return size % (unit * ways) == 0


def _misfit(name: str, size: int, unit: int, place: tuple[str, ...], mesh) -> str:
    """The sentence for an axis that does not split, with the sizes that would."""
    devices = math.prod(mesh.shape.values())
    fitting = [n for n in range(1, devices + 1) if devices % n == 0 and _divides(size, unit, n)]
    parts = f"{size // unit} x {unit}, the {unit} of which stay together," if unit > 1 else size
    where = " x ".join(place)
    return (
        f"{name}: an axis of {parts} cannot be split over {where} = {_ways(place, mesh)};"
        f" of {devices} devices, {where} = {', '.join(map(str, fitting))} would fit"
    )
