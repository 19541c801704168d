"""Opens a video file and selects one stream to decode on one thread."""

import contextlib
import gc
import pathlib
from collections.abc import Iterator

import av
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from data_pipelines import media_files
from data_pipelines.media_error import MediaError
from data_pipelines.video import declared
from data_pipelines.video.limits import Limits

# Containers that can hold a video. Playlists are excluded because they name other files, and
# still-image formats are excluded because they are not videos.
_FORMATS = (
    "mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,av1,ivf,obu,ogg,flv,asf,rm,mxf,gif,"
    "apng,nut,wtv,mjpeg,dv,y4m"
)
# Streams of still pictures: album covers and thumbnails.
_STILLS = Disposition.attached_pic | Disposition.timed_thumbnails


@contextlib.contextmanager
def open_stream(
    path: str | pathlib.Path, limits: Limits
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Yields the container and its video stream; PyAV errors in the body become `MediaError`.

    Raises:
      MediaError: the file is missing, empty or damaged, has no video, or declares giant frames.
    """
    path = pathlib.Path(path)
    media_files.check(path)
    declared.check(path, limits)
    declared.limit_allocations(limits)
    # With this option decoders check the size coded in the stream before they allocate memory.
    bounds = {"max_pixels": str(limits.frame_pixels)}
    options = bounds | {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
    try:
        with av.open(
            # Without the scheme, libav would take 12:30.mp4 for an address of the protocol 12.
            f"file:{path}",
            metadata_errors="ignore",
            options=options,
            timeout=limits.decode_seconds,
        ) as container:
            stream = _select_stream(container, path)
            limits.check_size(path, stream.codec_context.width, stream.codec_context.height)
            for other in container.streams:
                if other.index != stream.index:
                    other.discard = Discard.all
            stream.codec_context.thread_count = 1
            stream.codec_context.options = bounds
            yield container, stream
    except av.error.ExitError as error:
        raise MediaError(
            f"{path}: no packet arrived within {limits.decode_seconds:g} seconds", "time limit"
        ) from error
    except av.error.FFmpegError as error:
        reason = error.strerror or type(error).__name__
        if isinstance(error, av.error.ArgumentError):
            reason += (
                "; playlists and still images are not read as videos, give an image as an image"
            )
        raise MediaError(f"{path}: not a readable video ({reason})", "unreadable") from error
    finally:
        # A container and its streams form a reference cycle, so the decoder and its frames would
        # live until a full garbage collection. Collecting the young generations is cheap.
        gc.collect(1)


def _select_stream(container: InputContainer, path: pathlib.Path) -> VideoStream:
    if not container.streams.video:
        raise MediaError(f"{path}: no video stream in the file", "no video")
    videos = [video for video in container.streams.video if not video.disposition & _STILLS]
    if not videos:
        raise MediaError(f"{path}: only a cover picture, no video stream in the file", "no video")
    stream = container.streams.best("video")
    if stream is not None and stream.disposition & _STILLS:
        stream = videos[0]
    if stream is None or stream.codec_context is None:
        raise MediaError(f"{path}: no decoder is available for its codec", "no decoder")
    return stream
