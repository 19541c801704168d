"""Clips for loading benchmarks: moving texture, which costs about as much as camera footage."""

import pathlib

import numpy as np

RATE = 30


def draw(path: pathlib.Path, seconds: int | float, width: int = 640, height: int = 360) -> None:
    """Writes a clip of moving texture, 30 frames a second, H.264 at about one megabit a second."""
    import av

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 8 + 1, 2 * width // 8, 3), np.uint8)
    texture = np.repeat(np.repeat(coarse, 8, 0), 8, 1)[:height]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"preset": "veryfast", "b": "1M", "g": "250", "bf": "2"}
        for index in range(round(seconds * RATE)):
            # Back and forth, so that frames differ and motion can be predicted.
            left = abs((2 * index) % (2 * width) - width) // 2
            view = np.ascontiguousarray(texture[:, left : left + width])
            frame = av.VideoFrame.from_ndarray(view, format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
