"""Writes videos whose packets are not their frames: cut, with lying flags, or of changing form.

`in_sequence` is what they are measured by: all frames that a decoder gives from the start.
"""

import dataclasses
import fractions
import pathlib
from collections.abc import Callable, Iterable

import av
import numpy as np
from av.packet import Packet
from av.stream import Disposition

TICKS = fractions.Fraction(1, 1000)


@dataclasses.dataclass(frozen=True)
class Coding:
    """How a video is coded.

    Attributes:
      codec: PyAV encoder.
      options: encoder options.
      pix_fmt: pixel format.
      rate: frames per second.
    """

    codec: str
    options: tuple[tuple[str, str], ...] = (("g", "10"),)
    pix_fmt: str = "yuv420p"
    rate: int = 10


_B_FRAMES = (("g", "10"), ("bf", "2"))
_SHORT_GROUPS = "keyint=10:min-keyint=10:scenecut=0:bframes=3:b-adapt=0"

CODINGS = {
    "h264": Coding("libx264", _B_FRAMES),
    "h264_open": Coding("libx264", (("x264-params", f"open-gop=1:{_SHORT_GROUPS}"),)),
    "h264_refresh": Coding("libx264", (("x264-params", "intra-refresh=1:keyint=10"),)),
    "hevc": Coding("libx265", (("x265-params", f"log-level=none:{_SHORT_GROUPS}"),)),
    "mpeg1": Coding("mpeg1video", _B_FRAMES, rate=25),
    "mpeg2": Coding("mpeg2video", _B_FRAMES, rate=25),
    "mpeg4": Coding("mpeg4", _B_FRAMES),
    "mpeg4_plain": Coding("mpeg4"),
    "vp8": Coding("libvpx", (("g", "10"), ("cpu-used", "8"))),
    "vp9": Coding("libvpx-vp9", (("g", "10"), ("cpu-used", "8"))),
    "av1": Coding("libsvtav1", (("preset", "12"), ("svtav1-params", "keyint=10"))),
    "mjpeg": Coding("mjpeg", (), "yuvj420p"),
    "ffv1": Coding("ffv1"),
    "prores": Coding("prores_ks", (), "yuv422p10le"),
    "gif": Coding("gif", (), "rgb8"),
    "wmv1": Coding("wmv1"),
    "wmv2": Coding("wmv2"),
    "flv": Coding("flv"),
    "msmpeg4": Coding("msmpeg4"),
    "h263": Coding("h263p"),
    "rv20": Coding("rv20"),
    "svq1": Coding("svq1", pix_fmt="yuv410p"),
    "snow": Coding("snow"),
    "huffyuv": Coding("huffyuv", (), "yuv422p"),
    "qtrle": Coding("qtrle", pix_fmt="rgb24"),
    "zmbv": Coding("zmbv", pix_fmt="bgr0"),
    "flashsv": Coding("flashsv", pix_fmt="bgr24"),
    "rpza": Coding("rpza", (), "rgb555le"),
    "apng": Coding("apng", (), "rgb24"),
}
CONTAINERS = (
    *("mp4", "mov", "mkv", "webm", "ts", "mpg", "avi", "flv", "wmv", "nut", "ogv", "ivf", "gif"),
    *("apng", "rm", "mxf", "3gp"),
)


def picture(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """A moving texture, different in every frame: uint8 [height, width, 3]."""
    y, x = np.mgrid[:height, :width]
    rows = [x * 2 + number * 7, y * 3 + number * 5, x + y + number * 11]
    frame = np.stack(rows, -1).astype(np.uint8)
    left = number * 3 % (width - 20)
    frame[10:40, left : left + 20] = 255 - 5 * number % 200
    return frame


def encode(
    path: pathlib.Path,
    coding: Coding,
    times: Iterable[int] | int = 40,
    size: tuple[int, int] = (96, 64),
    aspect: fractions.Fraction | None = None,
) -> pathlib.Path:
    """Writes a video.

    Args:
      path: the file; its suffix selects the container.
      coding: codec and options.
      times: the count of frames at the rate of `coding`, or the time of each frame in ms.
      size: width and height.
      aspect: width of a pixel divided by its height.

    Raises:
      av.error.FFmpegError: the container does not take the codec.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(coding.codec, rate=coding.rate)
        (stream.width, stream.height), stream.pix_fmt = size, coding.pix_fmt
        stream.options, stream.codec_context.thread_count = dict(coding.options), 1
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        exact = not isinstance(times, int)
        if exact:
            stream.codec_context.time_base = TICKS
        for number, time in enumerate(times if exact else range(times)):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")
            frame.pts = time
            if exact:
                frame.time_base = TICKS
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def copy(
    sources: Iterable[pathlib.Path],
    path: pathlib.Path,
    change: Callable[[int, Packet], Packet | None] = lambda _, packet: packet,
) -> pathlib.Path:
    """Copies packets, those of a second file after those of the first.

    Args:
      sources: files of the same codec.
      path: the copy.
      change: what becomes of a packet and its number; None leaves it out.
    """
    with av.open(str(path), "w") as new:
        copied, number, end = None, 0, fractions.Fraction(0)
        for source in sources:
            with av.open(str(source)) as old:
                stream, shift = old.streams.video[0], end
                copied = copied or new.add_stream_from_template(stream)
                for packet in old.demux(stream):
                    if not packet.size:
                        continue
                    if packet.pts is None or packet.dts is None:
                        raise ValueError(f"{source}: packets without times")
                    end = max(end, shift + (packet.pts + packet.duration) * stream.time_base)
                    packet = change(number, packet)
                    number += 1
                    if packet is None:
                        continue
                    if shift:
                        packet.pts += round(shift / stream.time_base)
                        packet.dts += round(shift / stream.time_base)
                    packet.stream = copied
                    new.mux(packet)
    return path


def cut(source: pathlib.Path, path: pathlib.Path, first: int) -> pathlib.Path:
    """Copies the packets from number `first` on, whether it is a keyframe or not, from time 0."""
    start = []

    def change(number: int, packet: Packet) -> Packet | None:
        if number < first:
            return None
        start.append(packet.dts)
        packet.pts, packet.dts = packet.pts - start[0], packet.dts - start[0]
        return packet

    return copy([source], path, change)


def hide_vp8(source: pathlib.Path, path: pathlib.Path, hidden: Iterable[int]) -> pathlib.Path:
    """Copies a VP8 video and clears the bit show_frame of some packets, as for alt-ref frames."""

    def change(number: int, packet: Packet) -> Packet:
        if number not in hidden:
            return packet
        data = bytearray(bytes(packet))
        data[0] &= ~0x10
        changed = Packet(bytes(data))
        for name in ("pts", "dts", "time_base", "duration", "is_keyframe"):
            setattr(changed, name, getattr(packet, name))
        return changed

    return copy([source], path, change)


def call_all_keyframes(path: pathlib.Path) -> pathlib.Path:
    """Takes the table of sync samples out of an mp4, which then calls every packet a keyframe."""
    data = path.read_bytes()
    assert data.count(b"stss") == 1
    path.write_bytes(data.replace(b"stss", b"free"))
    return path


def cover(path: pathlib.Path, video: bool) -> pathlib.Path:
    """Writes an mp4 with a second of sound, a cover of 64x64, and maybe a video of 96x64."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16000)
        picture_stream = container.add_stream("mjpeg", rate=1)
        picture_stream.width = picture_stream.height = 64
        picture_stream.pix_fmt = "yuvj420p"
        picture_stream.disposition = Disposition.attached_pic
        streams = [(picture_stream, 1, (64, 64))]
        if video:
            streams.append((container.add_stream("libx264", rate=10), 20, (96, 64)))
            streams[-1][0].width, streams[-1][0].height = 96, 64
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        samples.sample_rate, samples.pts = 16000, 0
        container.mux(sound.encode(samples) + sound.encode())
        for stream, count, size in streams:
            for number in range(count):
                frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")
                frame.pts = number
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return path


def in_sequence(path: pathlib.Path) -> tuple[list[bytes], list[float] | None]:
    """The frames of a file as a decoder gives them, and their times in seconds from the first.

    Times are None if they do not increase. Packets that do not decode are passed over.
    """
    frames, times = [], []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            try:
                decoded = packet.decode()
            except av.error.FFmpegError:
                continue
            frames += [frame.to_ndarray(format="rgb24").tobytes() for frame in decoded]
            times += [frame.time for frame in decoded]
    known = None not in times and (np.diff(times) > 0).all()
    return frames, [time - times[0] for time in times] if known else None
