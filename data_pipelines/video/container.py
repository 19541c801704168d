"""Opening a video file to read one stream of it, on one thread."""

import contextlib
import gc
import pathlib
from collections.abc import Iterator

import av
from av.stream import Discard

from data_pipelines.media_error import MediaError
from data_pipelines.video.limits import Limits

# Containers that hold a video. A playlist names other files, and pictures are no video.
_FORMATS = (
    "mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,av1,ivf,obu,ogg,flv,asf,rm,mxf,gif,"
    "apng,nut,wtv,mjpeg,dv,y4m"
)


@contextlib.contextmanager
def opened(path: str | pathlib.Path, limits: Limits) -> Iterator[tuple]:
    """The container and its video stream; what PyAV raises while they are used is a `MediaError`.

    Raises:
      MediaError: the file is missing, empty or damaged, has no video, or declares giant frames.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise MediaError(f"{path}: no such file", "missing")
    if not path.stat().st_size:
        raise MediaError(f"{path}: the file is empty", "empty")
    # Decoders check the size in the stream itself by it, before they take memory.
    bounds = {"max_pixels": str(limits.frame_pixels)}
    options = bounds | {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
    try:
        with av.open(
            str(path), metadata_errors="ignore", options=options, timeout=limits.decode_seconds
        ) as container:
            stream = _stream(container, path)
            limits.check_size(path, stream.codec_context.width, stream.codec_context.height)
            for other in container.streams:
                if other.index != stream.index:
                    other.discard = Discard.all
            stream.codec_context.thread_count = 1
            stream.codec_context.options = bounds
            yield container, stream
    except av.error.ExitError as error:
        raise MediaError(
            f"{path}: no packet came within {limits.decode_seconds:g} seconds", "time limit"
        ) from error
    except av.error.FFmpegError as error:
        reason = error.strerror or type(error).__name__
        if isinstance(error, av.error.ArgumentError):
            reason += "; playlists and pictures are not read as videos"
        raise MediaError(f"{path}: not a readable video ({reason})", "unreadable") from error
    finally:
        # A container and its streams refer to each other, so that the decoder and its pictures
        # would stay until all of Python's memory is searched; to search the young part is cheap.
        gc.collect(1)


def _stream(container, path):
    if not container.streams.video:
        raise MediaError(f"{path}: no video stream in the file", "no video")
    # Not the first: that may be the cover of an album.
    stream = container.streams.best("video")
    if stream is None or stream.codec_context is None:
        raise MediaError(f"{path}: there is no decoder for its codec", "no decoder")
    return stream
