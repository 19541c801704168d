"""Zigzag order: splits packs along mesh axis `context` with equal causal attention work per device.

With n devices, a pack is split into 2 n chunks, and device i holds chunks i and 2 n - 1 - i: one
with few visible keys and one with many. Together they cost 2 n - 1 full chunks and two halves on
every device. For n = 3:

    chunk    0  1  2  3  4  5
    device   0  1  2  2  1  0

Tokens enter the zigzag order once before the first layer and leave it after the last. Tokenwise
operations do not depend on the order, and attention accounts for it. Batches and outputs are in
natural order.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jaxtyping import Array

from ivx.errors import UserError
from ivx.parallel import sharding
from ivx.parallel.sharding import BATCH

CONTEXT = "context"


def shards() -> int:
    """Number of devices that a pack is split over."""
    mesh = sharding.current_mesh()
    return mesh.shape[CONTEXT] if mesh is not None else 1


def spec(mesh: Mesh | AbstractMesh, batch: int, *axes: str | None) -> PartitionSpec:
    """Partition spec of an array with a batch of this size on axis 0 and `axes` on the others.

    A batch that the devices do not divide is replicated.
    """
    share = mesh.shape["replica"] * mesh.shape["fsdp"]
    return PartitionSpec(BATCH if batch % share == 0 else None, *axes)


def to_zigzag(x: Array, axis: int = 1) -> Array:
    """Permutes tokens from natural order to zigzag order; axis 0 is the batch.

    Raises:
      UserError: the pack cannot be split into two chunks per device.
    """
    return _exchange(x, axis, _to_zigzag)


def to_natural(x: Array, axis: int = 1) -> Array:
    """Permutes tokens from zigzag order to natural order."""
    return _exchange(x, axis, _to_natural)


def gather(x: Array, axis: int = 1) -> Array:
    """Inside `jax.shard_map`: all-gathers along `context` in natural order.

    The gradient is reduce-scattered.
    """
    count = jax.lax.axis_size(CONTEXT)
    if count == 1:
        return x
    parts = jax.lax.all_gather(_halves(x, axis), CONTEXT)
    first, second = parts[:, 0], parts[::-1, 1]
    chunks = jnp.concatenate([first, second])
    return jnp.concatenate(list(chunks), axis)


def local_chunks(x: Array, axis: int = 1) -> Array:
    """Inside `jax.shard_map`: this device's two chunks of an array in natural order."""
    count = jax.lax.axis_size(CONTEXT)
    if count == 1:
        return x
    device = jax.lax.axis_index(CONTEXT)
    size = x.shape[axis] // (2 * count)
    chunks = [
        jax.lax.dynamic_slice_in_dim(x, chunk * size, size, axis)
        for chunk in (device, 2 * count - 1 - device)
    ]
    return jnp.concatenate(chunks, axis)


def _exchange(x: Array, axis: int, exchange: Callable[[Array, int, int], Array]) -> Array:
    mesh = sharding.current_mesh()
    if mesh is None or mesh.shape[CONTEXT] == 1:
        return x
    count = mesh.shape[CONTEXT]
    if x.shape[axis] % (2 * count):
        raise UserError(
            f"packs of {x.shape[axis]} tokens cannot be split into two chunks for each of"
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


def _to_zigzag(x: Array, axis: int, count: int) -> Array:
    """Sends chunks 2 i and 2 i + 1 of a device; receives one chunk of each parity."""
    even, odd = _halves(x, axis)
    even = jax.lax.ppermute(even, CONTEXT, _routes(count, 0))
    odd = jax.lax.ppermute(odd, CONTEXT, _routes(count, 1))
    return _in_order(even, odd, axis)


def _to_natural(x: Array, axis: int, count: int) -> Array:
    low, high = _halves(x, axis)
    device = jax.lax.axis_index(CONTEXT)
    even, odd = (jnp.where(device % 2 == 0, *pair) for pair in ((low, high), (high, low)))
    even = jax.lax.ppermute(even, CONTEXT, [(b, a) for a, b in _routes(count, 0)])
    odd = jax.lax.ppermute(odd, CONTEXT, [(b, a) for a, b in _routes(count, 1)])
    return jnp.concatenate([even, odd], axis)


def _in_order(even: Array, odd: Array, axis: int) -> Array:
    """Orders chunks i and 2 n - 1 - i of device i; the even one comes first if i is even."""
    first = jax.lax.axis_index(CONTEXT) % 2 == 0
    return jnp.concatenate([jnp.where(first, even, odd), jnp.where(first, odd, even)], axis)


def _routes(count: int, parity: int) -> Sequence[tuple[int, int]]:
    """(source, destination) of the chunks of this parity, from natural to zigzag order."""
    chunks = range(parity, 2 * count, 2)
    return [(chunk // 2, chunk if chunk < count else 2 * count - 1 - chunk) for chunk in chunks]


def _halves(x: Array, axis: int) -> Array:
    return jnp.stack(jnp.split(x, 2, axis))
