"""Converts a decoded frame to the RGB image that a player displays.

Colours follow the tags of the frame, or limited-range BT.601 without tags. Ten bits become eight.
Interlaced video keeps both fields, woven. Transparency is dropped. The display matrix of phones
(quarter turns and mirrors) is applied.
"""

import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame


def to_rgb(frame: VideoFrame) -> np.ndarray:
    """Returns uint8 [h, w, 3]."""
    picture = frame.to_ndarray(format="rgb24", threads=1)
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    return picture if matrix is None else _rotate(picture, np.frombuffer(matrix, np.int32))


def _rotate(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Applies (x, y) -> (a x + c y, b x + d y), rounded to the nearest quarter turn."""
    a, b, _, c, d = matrix[:5].astype(np.int64)
    across, down = a, d
    if abs(b) + abs(c) > abs(a) + abs(d):
        picture, across, down = picture.swapaxes(0, 1), c, b
    if across < 0:
        picture = picture[:, ::-1]
    if down < 0:
        picture = picture[::-1]
    return np.ascontiguousarray(picture)
