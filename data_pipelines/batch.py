"""The batch: everything a training step sees, as arrays of static shape.

Shapes: B packs, T tokens a pack, X patches a pack (rows of 1536 bytes).
"""

import dataclasses

import jax
import numpy as np


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Packed samples. Padding has segment 0, slice 0, weight 0 and visual index -1.

    Attributes:
      tokens: int32 [B, T].
      segments: int32 [B, T], 1, 2, ... for the samples of a pack.
      positions: int32 [B, 3, T], (time, height, width), starting at 0 in every sample.
      targets: int32 [B, T], the next token of the same sample.
      weights: float32 [B, T], 1 where predicting the target bears loss.
      visual_index: int32 [B, T], the merged patch group (row of patches / 4) that stands at this
        token, or -1.
      patches: uint8 [B, X, 1536], pixels; a slice never straddles a multiple of the slice block.
      slices: int32 [B, X], 1, 2, ... for the slices of a pack.
      grid: int32 [B, X, 4], (row, column, rows, columns) of the patch in its slice.
      slice_block: rows of patches that no slice straddles; a plain int, part of the shape.
    """

    tokens: np.ndarray
    segments: np.ndarray
    positions: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    visual_index: np.ndarray
    patches: np.ndarray
    slices: np.ndarray
    grid: np.ndarray
    slice_block: int = dataclasses.field(metadata={"static": True})
