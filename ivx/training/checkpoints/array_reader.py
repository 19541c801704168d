"""Reads stored arrays with little memory: one shard at a time, and of it one block at a time.

    block of the file, as stored -> checksum -> cast -> its place in the shard -> device

Orbax by default reads all arrays at once, each as a whole, and holds every array twice until it is
on the device. Here host memory holds one shard besides what lies on the devices. The checksum is
taken of the stored values, so a cast does not hide a change, and no second pass is needed.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from ivx.training.checkpoints import fingerprint

# Approximate bytes of a block as stored.
_BLOCK_BYTES = 64 << 20
# The first index of a part of an array and the one after its last, for every axis.
Bounds = tuple[tuple[int, int], ...]


class ArrayReader(ocp.type_handlers.ArrayHandler):
    """Orbax's handler of JAX arrays, with less memory when it reads; for one checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        # By the `id` of the array: Orbax spells paths in its own way.
        self._sums: dict[int, int] = {}

    def arguments(self, abstract: Any) -> Any:
        """How to read each array of a tree of shapes; without a sharding, on the first device."""
        first = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        return jax.tree.map(
            lambda leaf: ocp.ArrayRestoreArgs(
                sharding=leaf.sharding or first, global_shape=leaf.shape, dtype=leaf.dtype
            ),
            abstract,
        )

    def sums_of(self, tree: Any) -> dict[str, int]:
        """This host's part of the checksum of each array of a tree that was read, by path."""
        return {name: self._sums[id(leaf)] for name, leaf in fingerprint.leaves(tree).items()}

    async def deserialize(
        self,
        infos: Sequence[ocp.type_handlers.ParamInfo],
        args: Sequence[ocp.ArrayRestoreArgs],
    ) -> list[jax.Array]:
        """The arrays, one after the other; arguments are those of the base class."""
        return [await self._read(*pair) for pair in zip(infos, args, strict=True)]

    async def _read(
        self, info: ocp.type_handlers.ParamInfo, args: ocp.ArrayRestoreArgs
    ) -> jax.Array:
        spec = ocp.type_handlers.get_json_tspec_read(info, use_ocdbt=info.is_ocdbt_checkpoint)
        store = await ts.open(ts.Spec(spec), open=True, context=info.ts_context)
        if store.shape != tuple(args.global_shape):
            raise ValueError(
                f"{info.name} is stored with shape {store.shape}, not {tuple(args.global_shape)}"
            )
        dtype = args.dtype or store.dtype.numpy_dtype
        owners, here = {}, {}
        for device, index in args.sharding.devices_indices_map(store.shape).items():
            bounds = tuple(part.indices(n)[:2] for part, n in zip(index, store.shape, strict=True))
            owners.setdefault(bounds, device)
            if device.process_index == jax.process_index():
                here.setdefault(bounds, []).append(device)
        total, shards = 0, []
        for bounds, devices in here.items():
            shard, part = await _read_shard(store, bounds, dtype)
            total += part if owners[bounds].process_index == jax.process_index() else 0
            # Never as an alias: training donates the array, and XLA copies a donated alias.
            shards += [jax.device_put(shard, device, may_alias=False) for device in devices]
            jax.block_until_ready(shards)
            del shard  # before the next one is read
        array = jax.make_array_from_single_device_arrays(store.shape, args.sharding, shards)
        self._sums[id(array)] = total
        return array


async def _read_shard(
    store: ts.TensorStore, bounds: Bounds, dtype: np.dtype
) -> tuple[np.ndarray, int]:
    """The part of an array within bounds, cast, and its share of the checksum."""
    shard = np.empty([high - low for low, high in bounds], dtype)
    block = _block_shape(store.chunk_layout.read_chunk.shape or (), shard.shape, store.dtype)
    regions = list(_regions(bounds, block))
    total, ahead = 0, [store[region].read() for region in regions[:1]]
    for number, region in enumerate(regions):
        values = np.asarray(await ahead.pop())
        # The next block is read while this one is summed.
        ahead += [store[after].read() for after in regions[number + 1 : number + 2]]
        total += fingerprint.partial(values, [part.start for part in region], store.shape)
        place = zip(region, bounds, strict=True)
        shard[tuple(slice(part.start - low, part.stop - low) for part, (low, _) in place)] = values
    return shard, total


def _block_shape(chunk: Sequence[int], shape: Sequence[int], dtype: ts.dtype) -> tuple[int, ...]:
    """Whole chunks, up to `_BLOCK_BYTES`: as many as fit along the last axes, then along others."""
    block = [min(pair) for pair in zip(chunk, shape, strict=True)]
    for axis in reversed(range(len(block))):
        others = math.prod(block) // max(block[axis], 1) * dtype.numpy_dtype.itemsize
        rows = _BLOCK_BYTES // max(others * chunk[axis], 1) * chunk[axis]
        block[axis] = min(max(block[axis], rows), shape[axis])
    return tuple(block)


def _regions(bounds: Bounds, block: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Blocks that fill the bounds; all but the first begin where a chunk of the file does."""
    return itertools.product(
        *(
            [
                slice(start, min((start // size + 1) * size, high))
                for start in (low, *range((low // size + 1) * size, high, size))
            ]
            for (low, high), size in zip(bounds, block, strict=True)
        )
    )
