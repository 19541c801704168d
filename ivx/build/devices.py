"""From a config to the mesh of its run."""

from collections.abc import Sequence

import ml_collections
from jax.sharding import Mesh

from ivx.errors import UserError
from ivx.parallel import remat
from ivx.parallel.mesh import AXES, make_mesh


def mesh(config: ml_collections.ConfigDict, devices: Sequence | None = None) -> Mesh:
    """The mesh over all devices or those given.

    Raises:
      UserError: the sizes do not fit the devices, or the packs the mesh.
    """
    found = make_mesh({axis: config.mesh[axis] for axis in AXES}, devices)
    if config.model.remat == "offload" and devices is None:
        remat.check_offload(found.devices.flat)
    share = found.shape["replica"] * found.shape["fsdp"]
    packs = config.data.batch_packs // config.optim.accumulation
    if packs % share:
        raise UserError(
            f"{packs} packs a micro-batch cannot be spread over replica x fsdp = {share};"
            f" make data.batch_packs a multiple of {share * config.optim.accumulation}"
        )
    chunks = 2 * found.shape["context"]
    if found.shape["context"] > 1 and config.data.pack_tokens % chunks:
        raise UserError(
            f"data.pack_tokens = {config.data.pack_tokens} cannot be cut into two chunks for each"
            f" of mesh.context = {found.shape['context']} devices; make it a multiple of {chunks}"
        )
    return found
