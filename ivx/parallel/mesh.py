"""The device mesh: axes replica (across slices), fsdp, tensor, context.

Slices of a pod talk over the data-centre network, chips of a slice over links that are faster by
far: only `replica` crosses slices.
"""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from ivx.errors import UserError

AXES = ("replica", "fsdp", "tensor", "context")


def make_mesh(sizes: dict[str, int], devices: Sequence | None = None) -> Mesh:
    """Lays devices out; a size of -1 takes what the others leave.

    Args:
      sizes: of each axis.
      devices: all of them where none are given.

    Raises:
      UserError: the sizes do not make up the number of devices, or a slice would be torn.
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = _shape(sizes, len(devices))
    types = (AxisType.Auto,) * len(AXES)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        # 8 x 32 on a torus of 16 x 16, say: an axis may take a part of a side.
        laid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
        return Mesh(laid, AXES, axis_types=types)
    return Mesh(arrange_slices(shape, devices, slices), AXES, axis_types=types)


def arrange_slices(shape: Sequence[int], devices: Sequence, slices: int) -> np.ndarray:
    """Devices of several slices in the shape of a mesh, slice after slice along `replica`.

    Raises:
      UserError: `replica` is not a multiple of the number of slices.
    """
    replica, *inside = shape
    if replica % slices:
        raise UserError(
            f"mesh.replica = {replica}: there are {slices} slices, and no other axis may cross"
            f" from one to another; make mesh.replica a multiple of {slices}"
        )
    return mesh_utils.create_hybrid_device_mesh(
        (replica // slices, *inside), (slices, 1, 1, 1), devices, allow_split_physical_axes=True
    )


def _shape(sizes: dict[str, int], count: int) -> list[int]:
    """Sizes of the axes, the one that was left open among them."""
    shape = [sizes[axis] for axis in AXES]
    if shape.count(-1) > 1 or any(size < 1 and size != -1 for size in shape):
        raise UserError(
            f"mesh sizes {sizes} must be positive,"
            " at most one of them -1 (all devices that are left)"
        )
    rest = math.prod(size for size in shape if size != -1)
    shape = [count // rest if size == -1 else size for size in shape]
    if math.prod(shape) != count:
        fitting = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
        raise UserError(
            f"a mesh of {dict(zip(AXES, shape, strict=True))} does not make up {count} devices;"
            f" the product of the four must be {count}, so each is one of {fitting}"
        )
    return shape
