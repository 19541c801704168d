"""Attention among the patches of one slice (two frames), for all slices of a pack at once.

    out_x = sum_y softmax_y(q_x . k_y / sqrt(H)) v_y          y over the rows of the slice of x

Patches are stored in blocks of `block` rows, and no slice crosses a block boundary. The rows of a
slice are contiguous, and rows of slice 0 are padding. Softmax and sums are in float32.

    one block     1 1 1 2 2 3 3 3 . .        visited: tiles (#) that share a slice
    q 1 1 1 2     # # . .                    (within a tile, rows attend only to their own slice)
      2 3 3 3     # # # .
      3 . . .     . # # .
      . . . .     . . . #

Under a mesh (`ivx.parallel.sharding`), packs are sharded over replica and fsdp. Since attention
never crosses a block, the blocks of a pack are sharded over tensor and context. All mesh axes are
used, without communication.

For blocks that are processed in tiles, `jax.checkpoint` can save the output and the log-sum-exp by
name (`remat.VISION_ATTENTION`), so that the backward pass does not recompute them.

Shapes: q_bxnh, k_bxnh, v_bxnh, slices_bx, out_bxnh.
"""

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from ivx.kernels import choice
from ivx.kernels.vision_attention import tpu, xla
from ivx.parallel import sharding
from ivx.parallel.sharding import BATCH


def vision_attention(
    q_bxnh: Float[Array, "b x n h"],
    k_bxnh: Float[Array, "b x n h"],
    v_bxnh: Float[Array, "b x n h"],
    slices_bx: Int[Array, "b x"],
    block: int,
) -> Float[Array, "b x n h"]:
    """Bidirectional attention among patches with the same slice id, in the dtype of the values.

    Args:
      q_bxnh: rotated queries.
      k_bxnh: rotated keys.
      v_bxnh: values.
      slices_bx: slice id of each patch, ascending along X. 0 is padding, which yields 0 and
        propagates no gradient, whatever it holds.
      block: rows that no slice crosses; divides X unless X is smaller.

    Raises:
      ValueError: `block` does not divide X.
    """
    rows = q_bxnh.shape[1]
    block = min(block, rows)
    if rows % block:
        raise ValueError(
            f"{rows} rows of patches are not a multiple of the block size {block}; pad the rows"
        )
    real = (slices_bx > 0)[..., None, None]
    q_bxnh, k_bxnh, v_bxnh = (jnp.where(real, a, 0) for a in (q_bxnh, k_bxnh, v_bxnh))

    mesh = sharding.current_mesh()
    spec = _partition_spec(mesh, len(q_bxnh), rows // block) if mesh is not None else None
    # The constraints apply to the shard of one device.
    shard = NamedSharding(mesh, spec).shard_shape(q_bxnh.shape) if mesh is not None else None
    constraint = tpu.constraint(jax.ShapeDtypeStruct(shard or q_bxnh.shape, q_bxnh.dtype), block)
    implementation = choice.pick("vision_attention", not constraint, constraint)

    def attend(q: Array, k: Array, v: Array, slices: Array) -> Array:
        run = {"tpu": tpu, "xla": xla}[implementation].vision_attention
        return run(q, k, v, slices, block)

    if mesh is not None:
        attend = jax.shard_map(
            attend,
            mesh=mesh,
            in_specs=(spec, spec, spec, spec),
            out_specs=spec,
            check_vma=False,
        )
    return jnp.where(real, attend(q_bxnh, k_bxnh, v_bxnh, slices_bx), 0)


def _partition_spec(mesh: AbstractMesh, packs: int, blocks: int) -> P:
    """Partition spec of [B, X, ...]; mesh axes that do not divide the size are left out."""
    pack_axes = sharding.axes_dividing(packs, BATCH, mesh)
    block_axes = sharding.axes_dividing(blocks, ("tensor", "context"), mesh)
    return P(pack_axes or None, block_axes or None)
