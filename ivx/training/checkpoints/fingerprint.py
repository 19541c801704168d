"""The checksum of checkpoints: one integer per array that detects changed bits.

    f(a) = sum_i bits(a_i) (2 i + 1)   mod 2^32        i: row-major index of the element

Modular sums do not depend on their order, so f is the same on any mesh, on any number of hosts and
in numpy. It is the sum of the `partial` sums of disjoint parts, so no array is ever held twice. An
odd factor is invertible modulo 2^32, so a change of one element always changes f. A change of
several elements goes undetected with a probability of about one in four billion.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

from ivx.parallel import across_hosts

# Elements per numpy block: a block and its factors fit into a core's cache.
_BLOCK = 1 << 16
_MODULUS = 1 << 32


def fingerprints(tree: Any) -> dict[str, int]:
    """The fingerprint of every leaf, by its dotted path.

    Args:
      tree: numpy or JAX arrays of 1, 2 or 4 bytes per element. JAX arrays may be sharded over the
        devices of several hosts; then all hosts must call this.
    """
    # All shards are dispatched before the first result is read.
    parts = {name: _shard_sums(leaf) for name, leaf in leaves(tree).items()}
    local = {name: sum(map(int, sums)) for name, sums in parts.items()}
    return across(local, spanning_hosts(tree))


def leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree, by their dotted paths."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def spanning_hosts(tree: Any) -> list[str]:
    """Paths of the arrays that lie on several hosts."""
    return [
        name
        for name, leaf in leaves(tree).items()
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
    ]


def across(local: Mapping[str, int], spanning: Sequence[str]) -> dict[str, int]:
    """Fingerprints from the sums of this host; a collective call if an array spans hosts.

    Args:
      local: by path, the sum over the parts that belong to this host.
      spanning: paths of the arrays that lie on several hosts.
    """
    local = {name: value % _MODULUS for name, value in local.items()}
    if not spanning:
        return local
    sums = across_hosts.total([local[name] for name in spanning])
    return local | {name: int(value) % _MODULUS for name, value in zip(spanning, sums, strict=True)}


def partial(part: np.ndarray, start: Sequence[int], shape: Sequence[int]) -> int:
    """The share of f that one part of an array has.

    Args:
      part: elements of the array, a block along every axis.
      start: index of its first element, for every axis.
      shape: of the whole array.
    """
    strides = _strides(shape)
    first = sum(index * stride for index, stride in zip(start, strides, strict=True))
    return _sum(part.view(f"uint{8 * part.dtype.itemsize}"), first, strides) % _MODULUS


def _sum(bits: np.ndarray, first: int, strides: list[int]) -> int:
    """Sum of bits (2 i + 1), where i = first + sum_axis index stride."""
    if bits.ndim == 0:
        return int(bits) * (2 * first + 1)
    row_size = math.prod(bits.shape[1:])
    if row_size > _BLOCK:
        rows = enumerate(bits)
        return sum(_sum(row, first + i * strides[0], strides[1:]) for i, row in rows)
    # The factors of groups of rows differ by a constant.
    group = min(max(1, _BLOCK // max(1, row_size)), len(bits))
    odd = _odd_factors((group, *bits.shape[1:]), tuple(strides))
    total = 0
    for row in range(0, len(bits), group):
        block = bits[row : row + group].astype(np.uint32)
        offset = 2 * (first + row * strides[0])
        total += offset * int(block.sum(dtype=np.uint32))
        block *= odd[: len(block)]
        total += int(block.sum(dtype=np.uint32))
    return total


@functools.lru_cache(maxsize=8)
def _odd_factors(shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    """2 i + 1 for a block that starts at index 0, modulo 2^32."""
    odd = np.ones(shape, np.uint32)
    for axis, stride in enumerate(strides):
        index = np.arange(shape[axis], dtype=np.uint32) * np.uint32(2 * stride % _MODULUS)
        odd += index.reshape(-1, *(1,) * (len(shape) - axis - 1))
    return odd


def _shard_sums(leaf: Any) -> list[Any]:
    """The sums of all shards of which this host holds the first replica."""
    if not isinstance(leaf, jax.Array):
        leaf = np.asarray(leaf)
        return [partial(leaf, (0,) * leaf.ndim, leaf.shape)]
    strides = _strides(leaf.shape)
    sums = []
    for shard in leaf.addressable_shards:
        if shard.replica_id:
            continue
        start = [part.indices(size)[0] for part, size in zip(shard.index, leaf.shape, strict=True)]
        if shard.device.platform == "cpu":
            # In place: XLA:CPU would write all products before it sums them.
            sums.append(partial(_host_view(shard.data), start, leaf.shape))
        else:
            first = sum(index * stride for index, stride in zip(start, strides, strict=True))
            sums.append(_on_device(tuple(strides))(shard.data, np.uint32(first % _MODULUS)))
    return sums


def _host_view(array: Array) -> np.ndarray:
    """A view of an array on a CPU device.

    `np.asarray(array)` is kept by the array, and a donated array of which a view is kept is copied.
    """
    return np.asarray(array.addressable_data(0))


@functools.cache
def _on_device(strides: tuple[int, ...]) -> Any:
    """The jitted sum of a shard on its device, which XLA fuses into one pass over memory."""

    def run(a: Array, first: UInt32[Array, ""]) -> UInt32[Array, ""]:
        index = jnp.full(a.shape, first)
        for axis, stride in enumerate(strides):
            index += jax.lax.broadcasted_iota(jnp.uint32, a.shape, axis) * jnp.uint32(stride)
        if a.dtype == jnp.bool_:
            a = a.astype(jnp.uint8)
        bits = jax.lax.bitcast_convert_type(a, jnp.dtype(f"uint{8 * a.dtype.itemsize}"))
        return (bits.astype(jnp.uint32) * (2 * index + 1)).sum(dtype=jnp.uint32)

    return jax.jit(run)


def _strides(shape: Sequence[int]) -> list[int]:
    """Row-major strides in elements, modulo 2^32."""
    return [math.prod(shape[axis + 1 :]) % _MODULUS for axis in range(len(shape))]
