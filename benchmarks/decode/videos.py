"""Videos for `python -m benchmarks decode`, with the index of each frame drawn into it as bars.

    |# ## #  #   ...|   18 bars in the top rows, white for a one, lowest bit first
    |               |
    | a texture that pans under moving boxes and fresh noise; a new one every ten seconds

With the noise a frame costs about as much to decode as camera footage. The long file repeats the
packets of the short one and is not encoded again.
"""

import dataclasses
import pathlib

import numpy as np

RATE, WIDTH, HEIGHT = 30, 640, 360
BITS = 18
_BAR_ROWS = 24
_SCENE = 10 * RATE


@dataclasses.dataclass(frozen=True)
class Clip:
    """A file to decode.

    Attributes:
      seconds: its length.
      gop: frames per keyframe.
      copies: how many times it repeats a shorter clip.
    """

    seconds: int
    gop: int
    copies: int = 1

    @property
    def name(self) -> str:
        """Such as 300s_gop250."""
        return f"{self.seconds}s_gop{self.gop}"

    @property
    def num_frames(self) -> int:
        """Frames of the file."""
        return self.seconds * RATE

    def number(self, index: int) -> int:
        """The number drawn into the frame at a display index."""
        return index % (self.num_frames // self.copies)

    def make(self, folder: pathlib.Path) -> pathlib.Path:
        """The file in `folder`, generated if it does not exist."""
        path = folder / f"{self.name}_{WIDTH}x{HEIGHT}.mp4"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial.mp4")
            if self.copies > 1:
                part = Clip(self.seconds // self.copies, self.gop).make(folder)
                _repeat(part, partial, self.copies, self.num_frames // self.copies)
            else:
                _encode(partial, self)
            partial.replace(path)
        return path


def read_number(picture: np.ndarray) -> int:
    """The number drawn into a frame, uint8 [h, w, 3] of any size."""
    height, width = picture.shape[:2]
    row = picture[_BAR_ROWS * height // HEIGHT // 2]
    centres = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    return int(((row[centres].mean(-1) > 128) << np.arange(BITS)).sum())


def _encode(path: pathlib.Path, clip: Clip) -> None:
    """Encodes H.264 by x264 `veryfast`: three B-frames, every other one a reference."""
    import av

    rng = np.random.default_rng(0)
    noise = rng.integers(-3, 4, (16, HEIGHT, WIDTH), np.int16)
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"preset": "veryfast", "crf": "24", "g": str(clip.gop)}
        for index in range(clip.num_frames):
            if index % _SCENE == 0:
                scene = _Scene(rng)
            planes = scene.planes(index % _SCENE, noise[rng.integers(16)])
            for bit in range(BITS):
                left, right = (WIDTH * bit // BITS, WIDTH * (bit + 1) // BITS)
                planes[0][:_BAR_ROWS, left:right] = 235 if index >> bit & 1 else 16
            picture = av.VideoFrame.from_ndarray(
                np.concatenate([plane.ravel() for plane in planes]).reshape(-1, WIDTH),
                format="yuv420p",
            )
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


class _Scene:
    """A texture twice as wide as the frame, and five boxes that cross it."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._planes = [_texture(rng, HEIGHT // scale, 2 * WIDTH // scale) for scale in (1, 2, 2)]
        self._boxes = rng.integers(0, [WIDTH, HEIGHT, 220, 220, 220], (5, 5))
        self._speeds = rng.integers(-6, 7, (5, 2))

    def planes(self, moment: int, noise: np.ndarray) -> list[np.ndarray]:
        """Luma and chroma, uint8 [H, W] and twice [H / 2, W / 2], of a frame of the scene."""
        planes = [
            plane[:, 2 * moment // scale :][:, : WIDTH // scale].copy()
            for plane, scale in zip(self._planes, (1, 2, 2), strict=True)
        ]
        for (x, y, *colour), (right, down) in zip(self._boxes, self._speeds, strict=True):
            left = (x + right * moment) % (WIDTH - 64) // 2
            top = (y + down * moment) % (HEIGHT - 64) // 2
            for plane, value, scale in zip(planes, colour, (2, 1, 1), strict=True):
                area = np.s_[scale * top : scale * (top + 32), scale * left : scale * (left + 32)]
                plane[area] = value
        planes[0] = np.clip(planes[0] + noise, 0, 255).astype(np.uint8)
        for plane in planes[1:]:
            plane[: _BAR_ROWS // 2] = 128
        return planes


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    from PIL import Image

    coarse = rng.integers(40, 200, (height // 8, width // 8), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _repeat(source: pathlib.Path, path: pathlib.Path, copies: int, frames: int) -> None:
    """Writes the packets of `source`, of `frames` frames, `copies` times."""
    import av

    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = None
        for copy in range(copies):
            with av.open(str(source)) as part:
                video = part.streams.video[0]
                stream = stream or container.add_stream_from_template(video)
                shift = round(copy * frames / RATE / video.time_base)
                for packet in part.demux(video):
                    if packet.size:
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        packet.stream = stream
                        container.mux(packet)
