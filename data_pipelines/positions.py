"""Three-axis positions (time, height, width) of a sequence of text and visual tokens.

A text token has the same position on all three axes. A slice of r x c merged tokens that starts at
p has t = p for all of its tokens, h = p + row, w = p + column; the next token is at p + max(r, c).
Positions do not encode time in seconds: the text before each slice does.
"""

from collections.abc import Sequence

import numpy as np


def positions_3d(is_visual: np.ndarray, slice_shapes: Sequence[tuple[int, int]]) -> np.ndarray:
    """Positions of one sample.

    Args:
      is_visual: bool [T], true at merged visual tokens.
      slice_shapes: (rows, columns) of merged tokens, one per run of visual tokens.

    Returns:
      int32 [3, T].

    Raises:
      ValueError: the runs of visual tokens do not match the slices.
    """
    steps = np.diff(np.concatenate([[False], is_visual, [False]]).astype(np.int8))
    runs = np.stack([np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)], -1)
    sizes = [rows * columns for rows, columns in slice_shapes]
    if list(runs[:, 1] - runs[:, 0]) != sizes:
        raise ValueError(
            f"runs of {list(runs[:, 1] - runs[:, 0])} visual tokens for slices of {sizes}"
        )
    # The advance after each token: 1 for text, and the longer side of a slice for its last token.
    advance = np.where(is_visual, 0, 1)
    offsets = np.zeros((3, len(is_visual)), np.int64)
    for (first, last), (rows, columns) in zip(runs, slice_shapes, strict=True):
        offsets[1:, first:last] = np.divmod(np.arange(rows * columns), columns)
        advance[last - 1] = max(rows, columns)
    base = np.cumsum(advance) - advance
    return (base + offsets).astype(np.int32)
