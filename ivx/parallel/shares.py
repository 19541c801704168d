"""Which packs of a batch a host reads: those that its devices hold.

Packs lie over replica x fsdp, `places` in a row. A host whose devices span several places reads the
packs of all of them; hosts whose devices share a place (one pack over several hosts, by tensor or
context) read the same packs, and each sends on what its devices hold of them.
"""

import dataclasses

import jax
import numpy as np
from jax.sharding import Mesh

from ivx.errors import UserError


@dataclasses.dataclass(frozen=True)
class PackShare:
    """What this host reads.

    Attributes:
      index: number of the share, 0 to count - 1; hosts with the same packs have the same.
      count: shares of a batch.
      places: of its packs along replica x fsdp.
      first: whether this is the first of the hosts that read these packs.
    """

    index: int
    count: int
    places: tuple[int, ...]
    first: bool


# The whole of every batch.
ALONE = PackShare(0, 1, (0,), True)


def pack_share(mesh: Mesh) -> PackShare:
    """The share of this process.

    Raises:
      UserError: hosts would have unlike or half overlapping shares.
    """
    processes = np.vectorize(lambda device: device.process_index)(mesh.devices)
    places = mesh.shape["replica"] * mesh.shape["fsdp"]
    return share_of(jax.process_index(), processes.reshape(places, -1))


def share_of(mine: int, processes: np.ndarray) -> PackShare:
    """The share of process `mine`, from the process of each device, [places, devices of a place].

    Raises:
      UserError: as `pack_share`.
    """
    held: dict[int, set[int]] = {}
    for place, row in enumerate(processes):
        for process in row:
            held.setdefault(int(process), set()).add(place)
    shares = sorted({tuple(sorted(found)) for found in held.values()})
    if len({len(share) for share in shares}) > 1 or sum(map(len, shares)) != len(processes):
        raise UserError(
            f"this mesh gives hosts unlike or half overlapping shares of a batch: of its"
            f" {len(processes)} parts {', '.join(map(str, shares[:4]))}, ...; make mesh.replica x"
            f" mesh.fsdp a multiple or a divisor of the {len(held)} hosts"
        )
    own = tuple(sorted(held[mine]))
    first = mine == min(process for process, places in held.items() if places == held[mine])
    return PackShare(shares.index(own), len(shares), own, first)
