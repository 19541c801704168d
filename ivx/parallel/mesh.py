"""The device mesh: axes replica (across slices), fsdp, tensor, context."""

import math

import jax
from jax.sharding import AxisType, Mesh

from ivx.errors import UserError

AXES = ("replica", "fsdp", "tensor", "context")


def make_mesh(sizes: dict[str, int]) -> Mesh:
    """Lays all devices out; a size of -1 takes what the others leave.

    Raises:
      UserError: the sizes do not make up the number of devices.
    """
    count = jax.device_count()
    shape = [sizes[axis] for axis in AXES]
    if shape.count(-1) > 1 or any(size < 1 and size != -1 for size in shape):
        raise UserError(
            f"mesh sizes {sizes} must be positive,"
            " at most one of them -1 (all devices that are left)"
        )
    rest = math.prod(size for size in shape if size != -1)
    shape = [count // rest if size == -1 else size for size in shape]
    if math.prod(shape) != count:
        raise UserError(
            f"a mesh of {dict(zip(AXES, shape, strict=True))} does not make up {count} devices"
        )
    return jax.make_mesh(shape, AXES, (AxisType.Auto,) * len(AXES))


def spread_ops(mesh: Mesh) -> None:
    """Makes this the mesh that ops with kernels of their own spread over, from now on.

    XLA does not split a Pallas kernel, and what travels along `context` is not its to choose:
    these ops ask for the mesh. Without it the compiler spreads everything.
    """
    if mesh.shape["context"] > 1 or (mesh.size > 1 and jax.default_backend() == "tpu"):
        jax.set_mesh(mesh)
