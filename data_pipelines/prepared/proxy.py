"""Proxies: videos re-encoded at a lower frame rate, smaller and faster to decode.

Proxies are lossy: skipped frames cannot be sampled, pixels are encoded a second time, and an odd
side loses one row of pixels. Frames are spaced evenly over the original at `fps`.
"""

import fractions
import itertools
import math

import av
import numpy as np

from data_pipelines import disk_full
from data_pipelines.media_error import MediaError
from data_pipelines.video import decode
from data_pipelines.video import frames as sampling
from data_pipelines.video.info import VideoInfo
from data_pipelines.video.limits import USUAL_LIMITS, Limits, Meter

# The decoding limits of one sample apply to this many frames.
_FRAMES_PER_SAMPLE = 128


def indices(info: VideoInfo, fps: float) -> np.ndarray:
    """Indices of the original frames in the proxy, as in `video.frames`: int64 [F_]."""
    # The proxy is at least as long as the original, so spans of the original remain valid.
    count = max(1, math.ceil(info.num_frames / info.rate * fps))
    frames = np.round(np.arange(count) * (info.rate / fps)).astype(np.int64)
    return np.minimum(frames, info.num_frames - 1)


def encode(path: str, info: VideoInfo, fps: float, out: str, limits: Limits = USUAL_LIMITS) -> None:
    """Writes the proxy as an mp4; each frame is encoded as it is decoded, so memory stays flat.

    Raises:
      MediaError: the original cannot be decoded, or the encoder rejects it.
    """
    try:
        try:
            _encode(path, info, fps, out, limits, in_sequence=False)
        except decode.ContradictionError:
            _encode(path, info, fps, out, limits, in_sequence=True)
    except av.FFmpegError as error:
        if disk_full.is_full(error):
            raise
        raise MediaError(f"{path}: the proxy cannot be encoded ({error})") from error


def _encode(
    path: str, info: VideoInfo, fps: float, out: str, limits: Limits, in_sequence: bool
) -> None:
    # Frames that stay on show repeat.
    seconds = decode.frame_times(path, limits)
    shown = sampling.on_show(seconds, indices(info, fps), info.rate)
    frames, counts = np.unique(shown, return_counts=True)
    repeats, numbers = iter(counts.tolist()), itertools.count()
    width, height = (max(2, side - side % 2) for side in (info.width, info.height))
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", rate=fractions.Fraction(fps).limit_denominator(1000)
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        # With groups of 16, decoding any frame takes at most 15 others.
        stream.options = {"preset": "veryfast", "crf": "18", "g": "16", "x264-params": "mbtree=0"}

        def encode_frame(picture: np.ndarray) -> None:
            picture = np.ascontiguousarray(picture[:height, :width])
            for _ in range(next(repeats)):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = next(numbers)
                container.mux(stream.encode(frame))

        samples = math.ceil(len(frames) / _FRAMES_PER_SAMPLE)
        meter = Meter(limits, samples)
        decode.read_once(path, info, frames, encode_frame, meter, in_sequence=in_sequence)
        if next(repeats, None) is not None:
            raise MediaError(f"{path}: some of its frames could not be decoded", "damaged")
        container.mux(stream.encode())
