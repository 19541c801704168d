"""Attention among the patches of one slice (two frames), for every slice of a pack at once.

    out_x = sum_y softmax_y(q_x . k_y / sqrt(H)) v_y          y over the rows of the slice of x

Patches lie in blocks of `block` rows that no slice straddles; the rows of a slice lie side by side,
and rows of slice 0 are padding. Softmax and sums are in float32.

    one block     1 1 1 2 2 3 3 3 . .        what is visited: # tiles that share a slice
    q 1 1 1 2     # # . .                    (rows of a tile see only their own slice in it)
      2 3 3 3     # # # .
      3 . . .     . # # .
      . . . .     . . . #

Under a mesh (`ivx.parallel.ambient`) packs lie over replica and fsdp, and since nothing crosses a
block, the blocks of a pack over tensor and context: no axis is left out, and nothing travels.

`jax.checkpoint` can keep the result and the softmax's sums of blocks that are attended to in tiles,
by name (`remat.VISION_ATTENTION`); they are then not made again for the backward pass.

Shapes: q_bxnh, k_bxnh, v_bxnh, slices_bx, out_bxnh.
"""

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from ivx.kernels import choice
from ivx.kernels.vision_attention import tpu, xla
from ivx.parallel import ambient, zigzag
from ivx.parallel.rules import BATCH


def vision_attention(
    q_bxnh: Float[Array, "b x n h"],
    k_bxnh: Float[Array, "b x n h"],
    v_bxnh: Float[Array, "b x n h"],
    slices_bx: Int[Array, "b x"],
    block: int,
) -> Float[Array, "b x n h"]:
    """Non-causal attention of patches of equal slice number, in the dtype of the values.

    Args:
      q_bxnh: queries, rotated.
      k_bxnh: keys, rotated.
      v_bxnh: values.
      slices_bx: slice of each patch, numbered as they lie; 0 for padding, which gives 0 whatever it
        holds, and nothing flows back through it.
      block: rows that no slice straddles; must divide X, or X must be smaller.

    Raises:
      ValueError: blocks that do not divide the rows.
    """
    rows = q_bxnh.shape[1]
    block = min(block, rows)
    if rows % block:
        raise ValueError(
            f"{rows} rows of patches are not whole blocks of {block}; pad them to a multiple"
        )
    real = (slices_bx > 0)[..., None, None]
    q_bxnh, k_bxnh, v_bxnh = (jnp.where(real, a, 0) for a in (q_bxnh, k_bxnh, v_bxnh))

    mesh = zigzag.current_mesh()
    where = _layout(mesh, len(q_bxnh), rows // block) if mesh is not None else None
    # A kernel sees a device's share of the blocks.
    share = (
        NamedSharding(mesh, where).shard_shape(q_bxnh.shape) if mesh is not None else q_bxnh.shape
    )
    constraint = tpu.constraint(jax.ShapeDtypeStruct(share, q_bxnh.dtype), block)
    chosen = choice.pick("vision_attention", not constraint, constraint)

    def attend(q, k, v, slices):
        run = {"tpu": tpu, "xla": xla}[chosen].vision_attention
        return run(q, k, v, slices, block)

    if mesh is not None:
        attend = jax.shard_map(
            attend,
            mesh=mesh,
            in_specs=(where, where, where, where),
            out_specs=where,
            check_vma=False,
        )
    return jnp.where(real, attend(q_bxnh, k_bxnh, v_bxnh, slices_bx), 0)


def _layout(mesh: AbstractMesh, packs: int, blocks: int) -> P:
    """Where [B, X, ...] lies; blocks that are too few for all devices lie on fewer."""
    packs_over = ambient.dividing(packs, BATCH, mesh)
    blocks_over = ambient.dividing(blocks, ("tensor", "context"), mesh)
    return P(packs_over or None, blocks_over or None)
