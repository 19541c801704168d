"""Proxies: a video again at fewer frames a second, small and quick to decode. Lossy.

Frames that the proxy lacks cannot be sampled, pixels pass through an encoder once more, and an odd
side loses a row of pixels. Frames are spread evenly over the original at `fps`.
"""

import fractions
import io
import math

import av
import numpy as np

from data_pipelines.media_error import MediaError
from data_pipelines.video import decode
from data_pipelines.video.info import VideoInfo
from data_pipelines.video.limits import USUAL_LIMITS, Limits, Meter

# Frames held in memory at a time.
_CHUNK = 128


def indices(info: VideoInfo, fps: float) -> np.ndarray:
    """Frames of the original that the proxy has: int64 [F_]."""
    # As long as the original at least, so that spans in it are spans in the proxy.
    count = max(1, math.ceil(info.num_frames / info.rate * fps))
    found = np.round(np.arange(count) * (info.rate / fps)).astype(np.int64)
    return np.minimum(found, info.num_frames - 1)


def encode(path: str, info: VideoInfo, fps: float, limits: Limits = USUAL_LIMITS) -> bytes:
    """The proxy as an mp4.

    Raises:
      MediaError: the original cannot be decoded, or the encoder refuses it.
    """
    try:
        return _encode(path, info, fps, limits)
    except av.FFmpegError as error:
        raise MediaError(f"{path}: no proxy can be made of it ({error})") from error


def _encode(path: str, info: VideoInfo, fps: float, limits: Limits) -> bytes:
    chosen = indices(info, fps)
    width, height = (max(2, side - side % 2) for side in (info.width, info.height))
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", rate=fractions.Fraction(fps).limit_denominator(1000)
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        # Groups of 16: a frame is reached by decoding at most 15 others.
        stream.options = {"preset": "veryfast", "crf": "18", "g": "16", "x264-params": "mbtree=0"}
        for first in range(0, len(chosen), _CHUNK):
            part = chosen[first : first + _CHUNK]
            pictures = decode.read_frames(
                path, info, part, lambda frame: frame[:height, :width], Meter(limits)
            )
            for number, picture in enumerate(pictures, first):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                frame.pts = number
                container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()
