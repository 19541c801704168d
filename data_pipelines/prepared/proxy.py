"""Proxies: a video again at fewer frames a second, small and quick to decode. Lossy.

Frames that the proxy lacks cannot be sampled, pixels pass through an encoder once more, and an odd
side loses a row of pixels. Frames are spread evenly over the original at `fps`.
"""

import fractions
import itertools
import math

import av
import numpy as np

from data_pipelines.media_error import MediaError
from data_pipelines.video import decode
from data_pipelines.video.info import VideoInfo
from data_pipelines.video.limits import USUAL_LIMITS, Limits, Meter

# Frames of which as much may be asked as of a sample.
_SAMPLE = 128


def indices(info: VideoInfo, fps: float) -> np.ndarray:
    """Frames of the original that the proxy has: int64 [F_]."""
    # As long as the original at least, so that spans in it are spans in the proxy.
    count = max(1, math.ceil(info.num_frames / info.rate * fps))
    found = np.round(np.arange(count) * (info.rate / fps)).astype(np.int64)
    return np.minimum(found, info.num_frames - 1)


def encode(path: str, info: VideoInfo, fps: float, out: str, limits: Limits = USUAL_LIMITS) -> None:
    """Writes the proxy as an mp4; each frame is encoded when it is decoded, none is kept.

    Raises:
      MediaError: the original cannot be decoded, or the encoder refuses it.
    """
    try:
        _encode(path, info, fps, out, limits)
    except av.FFmpegError as error:
        raise MediaError(f"{path}: no proxy can be made of it ({error})") from error


def _encode(path: str, info: VideoInfo, fps: float, out: str, limits: Limits) -> None:
    chosen = indices(info, fps)
    # Where the original has too few frames, some come more than once.
    frames, counts = np.unique(chosen, return_counts=True)
    repeats, numbers = iter(counts.tolist()), itertools.count()
    width, height = (max(2, side - side % 2) for side in (info.width, info.height))
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", rate=fractions.Fraction(fps).limit_denominator(1000)
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        # Groups of 16: a frame is reached by decoding at most 15 others.
        stream.options = {"preset": "veryfast", "crf": "18", "g": "16", "x264-params": "mbtree=0"}

        def put(picture: np.ndarray) -> None:
            picture = np.ascontiguousarray(picture[:height, :width])
            for _ in range(next(repeats)):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = next(numbers)
                container.mux(stream.encode(frame))

        samples = math.ceil(len(frames) / _SAMPLE)
        decode.read_frames(path, info, frames, put, Meter(limits, samples))
        container.mux(stream.encode())
