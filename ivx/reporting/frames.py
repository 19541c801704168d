"""Frames of a video, or an image, as data: URLs for a page."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from data_pipelines.image import decode as image_decode
from data_pipelines.media_error import MediaError
from data_pipelines.video import decode
from data_pipelines.video.info import VideoInfo

HEIGHT = 96


def strip(path: str, count: int = 8) -> str:
    """`count` evenly spaced frames of a video side by side, or an image, as a data: URL of a JPEG.

    Raises:
      MediaError: the file cannot be read.
    """
    try:
        info = image_decode.probe(path)
        return data_url(image_decode.read(path, info, shape=(HEIGHT, _width(info))))
    except MediaError:  # not an image
        info = decode.probe(path)
    indices = np.round(np.linspace(0, info.num_frames - 1, count)).astype(np.int64)
    pictures = _small(path, info, indices)
    gap = np.full((HEIGHT, 3, 3), 255, np.uint8)
    joined = np.concatenate([part for picture in pictures for part in (picture, gap)][:-1], 1)
    return data_url(joined)


def thumbnails(path: str, indices: Sequence[int]) -> list[str]:
    """The frames at `indices` of `Clip`, each as a data: URL of a JPEG.

    Raises:
      MediaError: the video cannot be read, or has no such frames.
    """
    info = decode.probe(path)
    if not all(0 <= index < info.num_frames for index in indices):
        raise MediaError(
            f"{path}: {info.num_frames} frames, fewer than the model saw; was the file replaced?"
        )
    return [data_url(picture) for picture in _small(path, info, np.asarray(indices, np.int64))]


def _small(path: str, info: VideoInfo, indices: np.ndarray) -> list[np.ndarray]:
    """Frames at the height of a strip, uint8 [HEIGHT, w, 3] each."""

    def shrunk(frame: np.ndarray) -> np.ndarray:
        return _shrunk(frame, info)

    return decode.read_frames(path, info, indices, shrunk, on_show=True)


def _shrunk(frame: np.ndarray, info: VideoInfo) -> np.ndarray:
    size = _width(info), HEIGHT
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))


def _width(info: VideoInfo) -> int:
    return max(1, round(HEIGHT * info.width / info.height))


def data_url(picture: np.ndarray) -> str:
    """A picture, uint8 [h, w, 3], as a data: URL."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
