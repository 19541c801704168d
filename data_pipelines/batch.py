"""The batch: everything that a training step reads, as arrays of static shape.

Shapes: B packs, T tokens per pack, X patches per pack (rows of 1536 bytes).
"""

import dataclasses
from typing import Any

import jax

# np.ndarray on the host; as leaves of a pytree also jax arrays, tracers, shapes or shardings.
Leaf = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Packed samples. Padding has segment 0, slice 0, weight 0 and visual index -1.

    Attributes:
      tokens: int32 [B, T].
      segments: int32 [B, T], the samples of a pack, numbered from 1.
      positions: int32 [B, 3, T], (time, height, width), starting at 0 in every sample.
      targets: int32 [B, T], the next token of the same sample.
      weights: float32 [B, T], 1 where predicting the target bears loss.
      visual_index: int32 [B, T], the merged patch group (row of patches / 4) that is embedded at
        this token, or -1.
      patches: uint8 [B, X, 1536], pixels; no slice straddles a multiple of the slice block.
      slices: int32 [B, X], the slices of a pack, numbered from 1.
      grid: int32 [B, X, 4], (row, column, rows, columns) of the patch in its slice.
      slice_block: rows of patches that no slice straddles; a plain int, static under jit.
    """

    tokens: Leaf
    segments: Leaf
    positions: Leaf
    targets: Leaf
    weights: Leaf
    visual_index: Leaf
    patches: Leaf
    slices: Leaf
    grid: Leaf
    slice_block: int = dataclasses.field(metadata={"static": True})
