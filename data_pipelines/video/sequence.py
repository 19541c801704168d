"""Decodes packets one after the other, as a player does."""

import pathlib
from collections.abc import Callable, Iterable, Iterator

import av
from av.codec import CodecContext
from av.packet import Packet
from av.video.frame import VideoFrame

from data_pipelines.media_error import MediaError
from data_pipelines.video import container as containers
from data_pipelines.video.limits import Meter


def frames(
    context: CodecContext,
    packets: Iterable[tuple[int, Packet]],
    path: str | pathlib.Path,
    meter: Meter,
    first_keyframe: int,
    drop: Callable[[int], bool] = lambda _: False,
) -> Iterator[VideoFrame]:
    """Decodes numbered packets; yields frames in display order.

    Args:
      context: the decoder.
      packets: numbers and packets, in decode order.
      path: the file, for messages.
      meter: counts the work.
      first_keyframe: the first keyframe of the file. What comes before it cannot be decoded, so
        errors are passed over.
      drop: whether the decoder may drop the frame of a packet number that no frame refers to.

    Raises:
      MediaError: a packet is damaged, or the work exceeds a limit.
    """

    def counted(decoded: list[VideoFrame]) -> Iterator[VideoFrame]:
        for frame in decoded:
            meter.add(path, sum(plane.buffer_size for plane in frame.planes))
            yield frame

    for number, packet in packets:
        meter.tick(path)
        context.skip_frame = "NONREF" if drop(number) else "DEFAULT"
        try:
            decoded = context.decode(packet)
        except av.error.FFmpegError as error:
            if number < first_keyframe:
                continue
            reason = error.strerror or type(error).__name__
            raise MediaError(f"{path}: damaged at packet {number} ({reason})", "damaged") from error
        yield from counted(decoded)
    yield from counted(context.decode(None))
    context.flush_buffers()


def frame_times(
    path: str | pathlib.Path, meter: Meter, first_keyframe: int, until: int | None = None
) -> list[int | None]:
    """Times of the frames that a decoder gives, in ticks of the stream, in display order.

    Args:
      path: the file.
      meter: counts the work.
      first_keyframe: as in `frames`.
      until: ends after the first frame at or after this time; None decodes the whole file.

    Raises:
      MediaError: the file is damaged, or the work exceeds a limit.
    """
    times = []
    with containers.open_stream(path, meter.limits) as (container, stream):
        packets = enumerate(packet for packet in container.demux(stream) if packet.size)
        for frame in frames(stream.codec_context, packets, path, meter, first_keyframe):
            times.append(frame.pts)
            if until is not None and frame.pts is not None and frame.pts >= until:
                break
    return times
