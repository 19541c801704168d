"""A number for each array that changes when a bit of it does: the checksum of checkpoints.

    f(a) = sum_i bits(a_i) (2 i + 1)   mod 2^32        i: place of the element, row by row

Sums that wrap do not depend on their order, so that f is the same on any mesh, on any number of
hosts, and in numpy, and costs one pass over memory where the array lies. An odd factor has an
inverse modulo 2^32: one element that differs always changes f; of damage to several elements one
case in four billion goes unseen.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, UInt32

# Elements that numpy looks at at once, about.
_BLOCK = 1 << 20


def fingerprints(tree: Any) -> dict[str, int]:
    """The fingerprint of every leaf, by its dotted path.

    Args:
      tree: arrays of numpy or JAX, of 1, 2 or 4 bytes an element; those of JAX may be spread over
        devices of several hosts, all of which have to call this.
    """
    paths = [
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    ]
    leaves = jax.tree.leaves(tree)
    if not leaves:
        return {}
    if all(isinstance(leaf, jax.Array) for leaf in leaves):
        meshes = {leaf.sharding.mesh for leaf in leaves if isinstance(leaf.sharding, NamedSharding)}
        whole = NamedSharding(meshes.pop(), PartitionSpec()) if meshes else None
        values = np.asarray(_on_devices(whole)(leaves)).tolist()
    else:
        values = [_in_memory(np.asarray(leaf)) for leaf in leaves]
    return dict(zip(paths, values, strict=True))


@functools.cache
def _on_devices(whole: NamedSharding | None):
    return jax.jit(lambda leaves: jnp.stack([_of_array(a) for a in leaves]), out_shardings=whole)


def _of_array(a: Array) -> UInt32[Array, ""]:
    place = jnp.zeros(a.shape, jnp.uint32)
    for axis, stride in enumerate(_strides(a.shape)):
        place += jax.lax.broadcasted_iota(jnp.uint32, a.shape, axis) * jnp.uint32(stride)
    if a.dtype == jnp.bool_:
        a = a.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(a, jnp.dtype(f"uint{8 * a.dtype.itemsize}"))
    return (bits.astype(jnp.uint32) * (2 * place + 1)).sum(dtype=jnp.uint32)


def _in_memory(a: np.ndarray) -> int:
    """The same by numpy, block after block, without a copy of the whole."""
    rows = a.reshape(1, -1) if a.ndim < 2 else a
    odd = 2 * np.arange(min(_BLOCK, a.size), dtype=np.uint32) + np.uint32(1)
    total, place = 0, 0
    for row in rows:
        flat = np.ascontiguousarray(row).reshape(-1)
        for first in range(0, flat.size, _BLOCK):
            block = flat[first : first + _BLOCK]
            bits = block.view(f"uint{8 * block.dtype.itemsize}").astype(np.uint32)
            # sum bits (2 (place + i) + 1), all of it modulo 2^32.
            moved = 2 * place * int(bits.sum(dtype=np.uint32))
            bits *= odd[: bits.size]
            total += moved + int(bits.sum(dtype=np.uint32))
            place += block.size
    return total % 2**32


def _strides(shape: tuple[int, ...]) -> list[int]:
    """Elements from one index of an axis to the next, modulo 2^32."""
    return [math.prod(shape[axis + 1 :]) % 2**32 for axis in range(len(shape))]
