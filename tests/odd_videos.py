"""Writes small videos with unusual codecs, containers and timing.

Frame i of each has the brightness `LEVEL * i + DARKEST`, so `read_number` identifies it.
"""

import dataclasses
import fractions
import pathlib
from collections.abc import Callable

import av
import numpy as np
from PIL import Image

FRAMES, RATE, WIDTH, HEIGHT = 24, 10, 64, 48
LEVEL, DARKEST = 8, 24


@dataclasses.dataclass(frozen=True)
class Kind:
    """The encoding of a video.

    Attributes:
      file: file name; its suffix selects the container.
      codec: PyAV encoder.
      pix_fmt: pixel format.
      options: encoder options.
      size: (width, height).
      frames: number of frames.
      step: durations between frames in units of 1/90000 s, repeated in turn.
      start: time of the first frame, in the same unit.
      rotation: degrees, written as display matrix.
    """

    file: str
    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    options: tuple[tuple[str, str], ...] = (("g", "10"), ("bf", "2"))
    size: tuple[int, int] = (WIDTH, HEIGHT)
    frames: int = FRAMES
    step: tuple[int, ...] = (9000,)
    start: int = 0
    rotation: int = 0


_HIGH_QUALITY = (("b", "2000000"), ("qmin", "1"), ("qmax", "2"))

KINDS = {
    "h264": Kind("h264.mp4"),
    "open_groups": Kind("open.mp4", options=(("x264-params", "open-gop=1:keyint=8:bframes=3"),)),
    "pyramid": Kind("pyramid.mkv", options=(("x264-params", "keyint=12:bframes=7"),)),
    "no_b_frames": Kind("no_b.mp4", options=(("g", "10"), ("bf", "0"))),
    "variable_rate": Kind("variable.mp4", step=(3000, 9000, 18000)),
    "ten_bits": Kind("ten.mp4", pix_fmt="yuv420p10le"),
    "full_colour": Kind("full.mp4", pix_fmt="yuv444p"),
    "odd_size": Kind("odd.mp4", pix_fmt="yuv444p", size=(65, 49)),
    "interlaced": Kind("interlaced.mp4", options=(("g", "10"), ("x264-params", "tff=1"))),
    "late_start": Kind("late.mkv", start=900000),
    "rotated": Kind("rotated.mp4", rotation=90),
    "one_frame": Kind("one.mp4", frames=1),
    "transport": Kind("transport.ts"),
    "hevc": Kind("hevc.mp4", "libx265", options=(("x265-params", "log-level=none:keyint=10"),)),
    "hevc_ten_bits": Kind(
        "hevc_ten.mp4",
        "libx265",
        "yuv420p10le",
        options=(("x265-params", "log-level=none:keyint=10"),),
    ),
    "hevc_layers": Kind(
        "layers.mp4", "libx265", options=(("x265-params", "log-level=none:temporal-layers=3"),)
    ),
    "vp9": Kind("vp9.webm", "libvpx-vp9", options=(("g", "10"), ("cpu-used", "8"))),
    "av1": Kind("av1.mp4", "libsvtav1", options=(("preset", "12"), ("svtav1-params", "keyint=8"))),
    "mpeg4": Kind("mpeg4.mp4", "mpeg4", options=(("g", "10"), ("bf", "2"), *_HIGH_QUALITY)),
    "mpeg4_avi": Kind("b_frames.avi", "mpeg4", options=(("g", "10"), ("bf", "2"), *_HIGH_QUALITY)),
    "mpeg2": Kind("mpeg2.mpg", "mpeg2video", options=(("g", "10"), ("bf", "2"), *_HIGH_QUALITY)),
    "h264_avi": Kind("h264.avi"),
    "mjpeg": Kind("mjpeg.avi", "mjpeg", pix_fmt="yuvj420p", options=()),
    "gif": Kind("moving.gif", "gif", pix_fmt="rgb8", options=()),
}


def make(name: str, folder: pathlib.Path) -> pathlib.Path:
    """Writes the video `KINDS[name]`; raises `ValueError` if PyAV lacks the encoder."""
    kind = KINDS[name]
    path = folder / kind.file
    rate = 25 if kind.codec == "mpeg2video" else RATE
    with av.open(str(path), "w") as container:
        stream = container.add_stream(kind.codec, rate=rate)
        stream.width, stream.height = kind.size
        stream.pix_fmt = kind.pix_fmt
        stream.codec_context.thread_count = 1
        stream.options = dict(kind.options)
        if kind.rotation:
            stream.set_display_rotation(kind.rotation)
        ticks = len(kind.step) > 1 or kind.start
        if ticks:
            stream.codec_context.time_base = fractions.Fraction(1, 90000)
        time = kind.start
        for number in range(kind.frames):
            picture = av.VideoFrame.from_ndarray(numbered_frame(number, kind), format="rgb24")
            if ticks:
                picture.pts, picture.time_base = time, fractions.Fraction(1, 90000)
            else:
                picture.pts = number
            time += kind.step[number % len(kind.step)]
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def edit_list(source: pathlib.Path, path: pathlib.Path, hidden: int) -> pathlib.Path:
    """Copies the packets of `source`, moving the first `hidden` frames before the start."""
    return _copy(source, path, lambda time, frame: time - hidden * frame)


def jump_ahead(source: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    """Copies the packets of `source`, moving the second half an hour ahead.

    `source` must have no B-frames.
    """
    half = FRAMES // 2
    return _copy(source, path, lambda time, frame: time + 36000 * frame * (time >= half * frame))


def negative_times(source: pathlib.Path, path: pathlib.Path, before: int) -> pathlib.Path:
    """Copies the packets of `source`, moving the first `before` of them before time 0.

    `source` must have no B-frames.
    """
    options = {"avoid_negative_ts": "disabled"}
    return _copy(source, path, lambda time, frame: time - before * frame, options)


def concatenate(source: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    """Writes a transport stream twice in a row, so its times jump back."""
    path.write_bytes(source.read_bytes() * 2)
    return path


def frame_folder(path: pathlib.Path) -> pathlib.Path:
    """Writes the same frames as a folder of images."""
    path.mkdir()
    for number in range(FRAMES):
        picture = Image.fromarray(numbered_frame(number, KINDS["h264"]))
        picture.save(path / f"{number + 1:08d}.jpg", quality=95)
    return path


def audio_only(path: pathlib.Path) -> pathlib.Path:
    """Writes one second of silence without video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts = 16000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _copy(
    source: pathlib.Path,
    path: pathlib.Path,
    shift: Callable[[int, int], float],
    options: dict[str, str] | None = None,
) -> pathlib.Path:
    """Copies packets with times `shift(time, ticks of one frame)`."""
    written = av.open(str(path), "w", options=options or {})
    with av.open(str(source)) as old, written as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        frame = round(1 / RATE / stream.time_base)
        for packet in old.demux(stream):
            if packet.size:
                dts = packet.pts if packet.dts is None else packet.dts
                pts, dts = (round(shift(time, frame)) for time in (packet.pts, dts))
                packet.pts, packet.dts, packet.stream = pts, min(pts, dts), copy
                new.mux(packet)
    return path


def numbered_frame(number: int, kind: Kind) -> np.ndarray:
    """Returns a frame; its upper left corner is black, which reveals rotations."""
    width, height = kind.size
    picture = np.full((height, width, 3), LEVEL * number + DARKEST, np.uint8)
    picture[:8, :8] = 0
    return picture


def read_number(picture: np.ndarray) -> int:
    """Returns the number of a frame, read from its middle."""
    height, width = picture.shape[:2]
    middle = picture[height // 3 : -height // 3, width // 3 : -width // 3]
    return round((float(middle.mean()) - DARKEST) / LEVEL)
