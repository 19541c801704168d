"""A strip of frames of a video, as a picture that can stand inside a page."""

import base64
import io

import numpy as np
from PIL import Image

from data_pipelines.video import decode

HEIGHT = 96


def strip(path: str, count: int = 8) -> str:
    """`count` frames evenly over the video, side by side, as a data: address of a JPEG.

    Raises:
      VideoError: the video cannot be read.
    """
    info = decode.probe(path)
    indices = np.round(np.linspace(0, info.num_frames - 1, count)).astype(np.int64)
    width = max(1, round(HEIGHT * info.width / info.height))

    def shrink(frame: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(frame).resize((width, HEIGHT), Image.Resampling.LANCZOS))

    pictures = decode.read_frames(path, info, indices, shrink)
    gap = np.full((HEIGHT, 3, 3), 255, np.uint8)
    joined = np.concatenate([part for picture in pictures for part in (picture, gap)][:-1], 1)
    buffer = io.BytesIO()
    Image.fromarray(joined).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
