"""Packs cut along the mesh axis `context`, so that causal attention costs every device the same.

With n devices a pack is cut into 2 n chunks, and device i holds chunks i and 2 n - 1 - i: one that
sees little of the pack and one that sees much, 2 n - 1 whole chunks and two halves together. For
n = 3:

    chunk    0  1  2  3  4  5
    device   0  1  2  2  1  0

The order is entered once, before the first layer, and left after the last: whatever is computed
token by token does not mind it, and attention knows it. Data come and go in their natural order.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, PartitionSpec
from jaxtyping import Array

from ivx.errors import UserError
from ivx.parallel.rules import BATCH

CONTEXT = "context"


def current_mesh() -> Mesh | None:
    """The mesh set by `jax.set_mesh` if it has several devices and nothing has split it yet.

    None inside a `jax.shard_map`, where every device computes by itself.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or any(kind != AxisType.Auto for kind in mesh.axis_types):
        return None
    return mesh


def shards() -> int:
    """Devices that a pack is cut over."""
    mesh = current_mesh()
    return mesh.shape[CONTEXT] if mesh is not None else 1


def spec(mesh: Mesh, batch: int, *axes: str | None) -> PartitionSpec:
    """Where an array lies whose first axis is a batch of this size, and whose others are `axes`.

    A batch that the devices do not divide is whole on each.
    """
    share = mesh.shape["replica"] * mesh.shape["fsdp"]
    return PartitionSpec(BATCH if batch % share == 0 else None, *axes)


def enter(x: Array, axis: int = 1) -> Array:
    """From the natural order of tokens to that of the devices; axis 0 is the batch.

    Raises:
      UserError: the pack cannot be cut into two chunks a device.
    """
    return _exchange(x, axis, _enter)


def leave(x: Array, axis: int = 1) -> Array:
    """From the order of the devices back to the natural order."""
    return _exchange(x, axis, _leave)


def gather(x: Array, axis: int = 1) -> Array:
    """Inside a `jax.shard_map`: what all devices hold along `context`, in natural order.

    Its gradient is summed over devices and scattered to where it belongs.
    """
    count = jax.lax.axis_size(CONTEXT)
    if count == 1:
        return x
    parts = jax.lax.all_gather(_halves(x, axis), CONTEXT)
    first, second = parts[:, 0], parts[::-1, 1]
    whole = jnp.concatenate([first, second])
    return jnp.concatenate(list(whole), axis)


def own(x: Array, axis: int = 1) -> Array:
    """Inside a `jax.shard_map`: of an array in natural order, the two chunks of this device."""
    count = jax.lax.axis_size(CONTEXT)
    if count == 1:
        return x
    number = jax.lax.axis_index(CONTEXT)
    size = x.shape[axis] // (2 * count)
    chunks = [
        jax.lax.dynamic_slice_in_dim(x, chunk * size, size, axis)
        for chunk in (number, 2 * count - 1 - number)
    ]
    return jnp.concatenate(chunks, axis)


def _exchange(x: Array, axis: int, exchange) -> Array:
    mesh = current_mesh()
    if mesh is None or mesh.shape[CONTEXT] == 1:
        return x
    count = mesh.shape[CONTEXT]
    if x.shape[axis] % (2 * count):
        raise UserError(
            f"packs of {x.shape[axis]} tokens cannot be cut into two chunks for each of"
            f" context = {count} devices; make their length a multiple of {2 * count}"
        )
    names = [None] * (x.ndim - 1)
    names[axis - 1] = CONTEXT
    where = spec(mesh, x.shape[0], *names)
    return jax.shard_map(
        lambda part: exchange(part, axis, count),
        mesh=mesh,
        in_specs=where,
        out_specs=where,
        check_vma=False,
    )(x)


def _enter(x: Array, axis: int, count: int) -> Array:
    """Chunks 2 i and 2 i + 1 of a device go where they belong; one of each parity comes in."""
    even, odd = _halves(x, axis)
    even = jax.lax.ppermute(even, CONTEXT, _routes(count, 0))
    odd = jax.lax.ppermute(odd, CONTEXT, _routes(count, 1))
    return _in_order(even, odd, axis)


def _leave(x: Array, axis: int, count: int) -> Array:
    low, high = _halves(x, axis)
    number = jax.lax.axis_index(CONTEXT)
    even, odd = (jnp.where(number % 2 == 0, *pair) for pair in ((low, high), (high, low)))
    even = jax.lax.ppermute(even, CONTEXT, [(b, a) for a, b in _routes(count, 0)])
    odd = jax.lax.ppermute(odd, CONTEXT, [(b, a) for a, b in _routes(count, 1)])
    return jnp.concatenate([even, odd], axis)


def _in_order(even: Array, odd: Array, axis: int) -> Array:
    """Device i holds chunks i and 2 n - 1 - i: the even one comes first where i is even."""
    first = jax.lax.axis_index(CONTEXT) % 2 == 0
    return jnp.concatenate([jnp.where(first, even, odd), jnp.where(first, odd, even)], axis)


def _routes(count: int, parity: int) -> Sequence[tuple[int, int]]:
    """From the device that has a chunk of this parity in natural order to where it belongs."""
    chunks = range(parity, 2 * count, 2)
    return [(chunk // 2, chunk if chunk < count else 2 * count - 1 - chunk) for chunk in chunks]


def _halves(x: Array, axis: int) -> Array:
    return jnp.stack(jnp.split(x, 2, axis))
