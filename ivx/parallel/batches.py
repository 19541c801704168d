"""Batch placement: which packs each host reads, and how its share reaches the devices.

Packs are sharded along replica x fsdp. A host reads the packs of its devices. If its devices span
several positions along replica x fsdp, it reads the packs of all of them. Hosts that share one
position (one pack over several hosts, by tensor or context) read the same packs, and each transfers
the parts that its devices hold.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from data_pipelines import packing
from data_pipelines.batch import Batch
from ivx.errors import UserError
from ivx.parallel import sharding

# Batch fields whose second axis counts patches. All other fields are sharded only by pack.
_PATCH_FIELDS = ("patches", "slices", "grid")


@dataclasses.dataclass(frozen=True)
class PackShare:
    """The share of each batch that this host reads.

    Attributes:
      index: index of the share, 0 to count - 1; hosts that read the same packs have the same index.
      count: number of shares in a batch.
      positions: positions of its packs along replica x fsdp.
      first: whether this is the first of the hosts that read these packs.
    """

    index: int
    count: int
    positions: tuple[int, ...]
    first: bool


# The share of a host that reads every batch in full.
FULL_BATCH = PackShare(0, 1, (0,), True)


def pack_share(mesh: Mesh) -> PackShare:
    """The share of this process.

    Raises:
      UserError: the shares of hosts would have different sizes or overlap partially.
    """
    processes = np.vectorize(lambda device: device.process_index)(mesh.devices)
    positions = mesh.shape["replica"] * mesh.shape["fsdp"]
    return share_of_process(jax.process_index(), processes.reshape(positions, -1))


def share_of_process(process: int, processes: np.ndarray) -> PackShare:
    """The share of `process`, given each device's process [positions, devices per position].

    Raises:
      UserError: as `pack_share`.
    """
    held: dict[int, set[int]] = {}
    for position, row in enumerate(processes):
        for owner in row:
            held.setdefault(int(owner), set()).add(position)
    shares = sorted({tuple(sorted(positions)) for positions in held.values()})
    if len({len(share) for share in shares}) > 1 or sum(map(len, shares)) != len(processes):
        raise UserError(
            f"this mesh splits the {len(processes)} parts of a batch into shares of different sizes"
            f" or with partial overlap: {', '.join(map(str, shares[:4]))}, ...; make mesh.replica x"
            f" mesh.fsdp a multiple or a divisor of the {len(held)} hosts"
        )
    own = tuple(sorted(held[process]))
    first = process == min(p for p, positions in held.items() if positions == held[process])
    return PackShare(shares.index(own), len(shares), own, first)


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Transfers this host's share of a batch to its devices, as shards of one global batch.

    Packs are sharded over replica and fsdp; the patches of a pack, by slice block, also over tensor
    and context. Pads the patches until each device has the same number of slice blocks.

    Args:
      batch: pytree of host arrays [packs, ...].
      mesh: the device mesh.

    Raises:
      UserError: the packs cannot be divided evenly.
    """
    share = pack_share(mesh)

    def put(path: tuple, array: np.ndarray | jax.Array) -> jax.Array:
        # Packs per position.
        rows, rest = divmod(len(array), len(share.positions))
        if rest or not rows:
            raise UserError(
                f"{len(array)} packs cannot be divided over the {len(share.positions)} parts of"
                " replica x fsdp on this host; use a multiple"
            )

        def shard(index: tuple[slice, ...]) -> np.ndarray | jax.Array:
            position = (index[0].start or 0) // rows
            first = share.positions.index(position) * rows
            return array[(slice(first, first + rows), *index[1:])]

        shape = (len(array) * share.count, *array.shape[1:])
        return jax.make_array_from_callback(shape, _batch_sharding(path, array.ndim, mesh), shard)

    return jax.tree_util.tree_map_with_path(put, _pad_slice_blocks(batch, mesh))


def local_rows(array: np.ndarray, mesh: Mesh) -> np.ndarray:
    """The rows of a global array [B, ...] that this host passed to `put_batch`, in their order."""
    positions = mesh.shape["replica"] * mesh.shape["fsdp"]
    by_position = array.reshape(positions, -1, *array.shape[1:])
    return by_position[list(pack_share(mesh).positions)].reshape(-1, *array.shape[1:])


def abstract_batch(batch: Any, packs: int, mesh: Mesh) -> Any:
    """Shapes of the global arrays that `put_batch` makes of a batch of `packs` packs in total."""

    def shape(path: tuple, array: Any) -> jax.ShapeDtypeStruct:
        sharding = _batch_sharding(path, array.ndim, mesh)
        return jax.ShapeDtypeStruct((packs, *array.shape[1:]), array.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(shape, _pad_slice_blocks(batch, mesh))


def _pad_slice_blocks(batch: Any, mesh: Mesh) -> Any:
    """Pads the patches so that each device gets the same number of slice blocks."""
    parts = sharding.devices_along(sharding.TABLE["slice_block"][0], mesh)
    return jax.tree.map(
        lambda part: packing.pad_patches(part, parts) if isinstance(part, Batch) else part,
        batch,
        is_leaf=lambda part: isinstance(part, Batch),
    )


def _batch_sharding(path: tuple, rank: int, mesh: Mesh) -> NamedSharding:
    """Sharding of a batch array: by pack, and for patch fields also by slice block."""
    logical: list[str | None] = ["pack"] + [None] * (rank - 1)
    if path and getattr(path[-1], "name", "") in _PATCH_FIELDS:
        logical[1] = "slice_block"
    return NamedSharding(mesh, sharding.preferred_spec(logical, mesh))
