"""From logical axes to the mesh: one table for parameters, one rule for batches.

A parameter carries the names of its axes as metadata `AXES`; stacked layers add an unnamed axis in
front.
"""

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ivx.errors import UserError

# Metadata key under which a parameter carries the names of its axes.
AXES = "logical_axes"
# Logical axis -> mesh axis. Unnamed axes are whole on every device.
PARAMETERS = {
    "embed": "fsdp",
    "mlp": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "vocab": "tensor",
}
# Packs are spread over every axis that does not split a pack.
BATCH = ("replica", "fsdp")


def parameter_shardings(abstract: nnx.State, mesh: Mesh) -> dict:
    """A sharding for each parameter of an abstract state, as the pure dict that training works on.

    Raises:
      UserError: an axis that its mesh axis does not divide, or two axes of one array on the same
        mesh axis.
    """

    def sharding(path, variable: nnx.Variable) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        shape = variable.get_value().shape
        logical = variable.get_metadata().get(AXES, ())
        logical = (None,) * (len(shape) - len(logical)) + tuple(logical)
        physical = [PARAMETERS.get(axis) if axis else None for axis in logical]
        used = [axis for axis in physical if axis]
        if len(used) != len(set(used)):
            raise UserError(f"{name}: axes {logical} would lie twice on one mesh axis, {physical}")
        for size, axis in zip(shape, physical, strict=True):
            if axis and size % mesh.shape[axis]:
                raise UserError(
                    f"{name}: an axis of {size} cannot be split over"
                    f" {axis} = {mesh.shape[axis]}; choose a divisor of {size}"
                )
        return NamedSharding(mesh, PartitionSpec(*physical))

    variables = dict(nnx.to_flat_state(abstract))
    return jax.tree_util.tree_map_with_path(
        lambda path, _: sharding(path, variables[tuple(entry.key for entry in path)]),
        nnx.to_pure_dict(abstract),
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Packs over replica and fsdp."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def put_batch(batch, mesh: Mesh):
    """Sends a host's share of a batch to its devices; all hosts' parts form one global array."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda array: jax.make_array_from_process_local_data(sharding, array), batch
    )
