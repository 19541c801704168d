"""Cuts frames into the patch rows that the vision tower reads, and gives each row's grid position.

Rows are ordered by slice, then by merge window, so four consecutive rows form one token. Pixels
within a row are ordered (channel, frame of the slice, y, x), as the released weights expect.
"""

import einops
import numpy as np

from data_pipelines.video.frames import FRAMES_PER_SLICE
from data_pipelines.video.resize import MERGE, PATCH

ROW = 3 * FRAMES_PER_SLICE * PATCH * PATCH


def patchify(frames: np.ndarray) -> np.ndarray:
    """Maps uint8 [F_, H, W, 3] to uint8 [F_ / 2, h * w, 1536], h and w the sides in patches."""
    return einops.rearrange(
        frames,
        "(t f) (gh mh ph) (gw mw pw) c -> t (gh gw mh mw) (c f ph pw)",
        f=FRAMES_PER_SLICE,
        mh=MERGE,
        mw=MERGE,
        ph=PATCH,
        pw=PATCH,
    )


def patch_grid(rows: int, columns: int) -> np.ndarray:
    """(row, column, rows, columns) of a slice's patches in row order: int32 [rows * columns, 4]."""
    row, column = np.mgrid[:rows, :columns]
    grid = np.stack([row, column, np.full_like(row, rows), np.full_like(row, columns)], -1)
    windows = einops.rearrange(grid, "(gh mh) (gw mw) k -> (gh gw mh mw) k", mh=MERGE, mw=MERGE)
    return windows.astype(np.int32)
