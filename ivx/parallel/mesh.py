"""The device mesh: axes replica (across slices), fsdp, tensor, context.

Slices of a pod communicate over the data-center network, chips of a slice over much faster links.
So only `replica` crosses slices.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from ivx.errors import UserError

AXES = ("replica", "fsdp", "tensor", "context")


def make_mesh(sizes: dict[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    """Arranges devices in a mesh; one size may be -1 (all remaining devices).

    Args:
      sizes: size of each axis.
      devices: defaults to all devices.

    Raises:
      UserError: the sizes do not match the number of devices, or an axis other than `replica` would
        cross slices.
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = _shape(sizes, len(devices))
    types = (AxisType.Auto,) * len(AXES)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        # An axis may use part of a torus dimension, such as 8 x 32 on a torus of 16 x 16.
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
        return Mesh(grid, AXES, axis_types=types)
    return Mesh(arrange_slices(shape, devices, slices), AXES, axis_types=types)


def arrange_slices(shape: Sequence[int], devices: Sequence[Any], slices: int) -> np.ndarray:
    """Devices of several slices in the shape of a mesh, slice after slice along `replica`.

    Raises:
      UserError: `replica` is not a multiple of the number of slices.
    """
    replica, *inside = shape
    if replica % slices:
        raise UserError(
            f"mesh.replica = {replica} does not fit {slices} slices, and no other axis may cross"
            f" slices; make mesh.replica a multiple of {slices}"
        )
    return mesh_utils.create_hybrid_device_mesh(
        (replica // slices, *inside), (slices, 1, 1, 1), devices, allow_split_physical_axes=True
    )


def _shape(sizes: dict[str, int], count: int) -> list[int]:
    """Sizes of all axes, with -1 resolved."""
    shape = [sizes[axis] for axis in AXES]
    if shape.count(-1) > 1 or any(size < 1 and size != -1 for size in shape):
        raise UserError(
            f"mesh sizes {sizes} must be positive, at most one of them -1 (all remaining devices)"
        )
    rest = math.prod(size for size in shape if size != -1)
    shape = [count // rest if size == -1 else size for size in shape]
    if math.prod(shape) != count:
        given = {axis: sizes[axis] for axis in AXES if sizes[axis] not in (1, -1)}
        names = " x ".join(f"mesh.{axis}" for axis in given or AXES)
        total = " x ".join(str(size) for size in given.values()) or "1"
        divisors = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
        remedy = (
            f"make it a divisor of {count} ({divisors})"
            if -1 in sizes.values()
            else f"make it {count}, or one of {divisors} with another size of -1"
        )
        raise UserError(f"{names} = {total} does not match {count} devices; {remedy}")
    return shape
