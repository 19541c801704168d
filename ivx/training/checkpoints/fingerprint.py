"""The checksum of checkpoints: one integer per array that detects changed bits.

    f(a) = sum_i bits(a_i) (2 i + 1)   mod 2^32        i: row-major index of the element

Modular sums do not depend on their order, so f is the same on any mesh, on any number of hosts and
in numpy, and costs one pass over memory where the array lies. An odd factor is invertible modulo
2^32, so a change of one element always changes f. A change of several elements goes undetected with
a probability of about one in four billion.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, UInt32

# Elements per numpy block.
_BLOCK = 1 << 20


def fingerprints(tree: Any) -> dict[str, int]:
    """The fingerprint of every leaf, by its dotted path.

    Args:
      tree: numpy or JAX arrays of 1, 2 or 4 bytes per element. JAX arrays may be sharded over the
        devices of several hosts; then all hosts must call this.
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
        replicated = NamedSharding(meshes.pop(), PartitionSpec()) if meshes else None
        values = np.asarray(_jit_fingerprints(replicated)(leaves)).tolist()
    else:
        values = [_numpy_fingerprint(np.asarray(leaf)) for leaf in leaves]
    return dict(zip(paths, values, strict=True))


@functools.cache
def _jit_fingerprints(replicated: NamedSharding | None) -> Callable[[list[Array]], Array]:
    return jax.jit(
        lambda leaves: jnp.stack([_fingerprint(a) for a in leaves]), out_shardings=replicated
    )


def _fingerprint(a: Array) -> UInt32[Array, ""]:
    index = jnp.zeros(a.shape, jnp.uint32)
    for axis, stride in enumerate(_strides(a.shape)):
        index += jax.lax.broadcasted_iota(jnp.uint32, a.shape, axis) * jnp.uint32(stride)
    if a.dtype == jnp.bool_:
        a = a.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(a, jnp.dtype(f"uint{8 * a.dtype.itemsize}"))
    return (bits.astype(jnp.uint32) * (2 * index + 1)).sum(dtype=jnp.uint32)


def _numpy_fingerprint(a: np.ndarray) -> int:
    """The same in numpy, block by block, without a copy of the array."""
    rows = a.reshape(1, -1) if a.ndim < 2 else a
    odd = 2 * np.arange(min(_BLOCK, a.size), dtype=np.uint32) + np.uint32(1)
    total, start = 0, 0
    for row in rows:
        flat = np.ascontiguousarray(row).reshape(-1)
        for first in range(0, flat.size, _BLOCK):
            block = flat[first : first + _BLOCK]
            bits = block.view(f"uint{8 * block.dtype.itemsize}").astype(np.uint32)
            # sum bits (2 (start + i) + 1), modulo 2^32.
            offset = 2 * start * int(bits.sum(dtype=np.uint32))
            bits *= odd[: bits.size]
            total += offset + int(bits.sum(dtype=np.uint32))
            start += block.size
    return total % 2**32


def _strides(shape: tuple[int, ...]) -> list[int]:
    """Row-major strides in elements, modulo 2^32."""
    return [math.prod(shape[axis + 1 :]) % 2**32 for axis in range(len(shape))]
