"""From a decoded frame to RGB as it is shown.

Colours follow the tags of the frame, BT.601 of limited range where there are none; ten bits become
eight; of interlaced video both fields are kept, woven; transparency is left out. The display matrix
of phones (quarter turns and mirrors) is applied.
"""

import numpy as np
from av.sidedata.sidedata import Type


def rgb(frame) -> np.ndarray:
    """The picture of an `av.VideoFrame`: uint8 [h, w, 3]."""
    picture = frame.to_ndarray(format="rgb24", threads=1)
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    return picture if matrix is None else _turned(picture, np.frombuffer(matrix, np.int32))


def _turned(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Applies (x, y) -> (a x + c y, b x + d y), turned to the nearest axes."""
    a, b, _, c, d = matrix[:5].astype(np.int64)
    across, down = a, d
    if abs(b) + abs(c) > abs(a) + abs(d):
        picture, across, down = picture.swapaxes(0, 1), c, b
    if across < 0:
        picture = picture[:, ::-1]
    if down < 0:
        picture = picture[::-1]
    return np.ascontiguousarray(picture)
