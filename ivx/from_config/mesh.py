"""The device mesh of a config."""

from collections.abc import Sequence

import jax
import ml_collections
from jax.sharding import Mesh

from ivx.errors import UserError
from ivx.parallel import remat
from ivx.parallel.mesh import AXES, make_mesh


def make(config: ml_collections.ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over these devices; all devices by default.

    Raises:
      UserError: the sizes do not match the devices, or the mesh does not divide the packs.
    """
    mesh = make_mesh({axis: config.mesh[axis] for axis in AXES}, devices)
    if config.model.remat == "offload" and devices is None:
        remat.check_offload(mesh.devices.flat)
    share = mesh.shape["replica"] * mesh.shape["fsdp"]
    packs = config.data.batch_packs // config.optim.accumulation
    if packs % share:
        raise UserError(
            f"{packs} packs per micro-batch cannot be sharded over replica x fsdp = {share};"
            f" make data.batch_packs a multiple of {share * config.optim.accumulation}"
        )
    chunks = 2 * mesh.shape["context"]
    if mesh.shape["context"] > 1 and config.data.pack_tokens % chunks:
        raise UserError(
            f"data.pack_tokens = {config.data.pack_tokens} cannot be split into two chunks for each"
            f" of mesh.context = {mesh.shape['context']} devices; make it a multiple of {chunks}"
        )
    return mesh
