"""A contestant of `python -m benchmarks decode`: a process that answers requests in JSON lines.

    PYTHON worker.py NAME        NAME a key of CONTESTANTS

A request names a file, frames and an output size. The answer holds the CPU time of all threads and
the count of correct frames. Frames are passed on in blocks, uint8 [n, height, width, 3], and
dropped, so memory stays flat. Checking their numbers is not timed. This file runs as a script, also
in environments without ivx.
"""

import functools
import importlib.metadata
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
from videos import read_number

BLOCK = 256
# Set before libraries start their threads. XTuner leaves the threads of decord at their default.
for _name in ("OMP_NUM_THREADS", "TORCHCODEC_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"


class _Work:
    """A request, and the frames checked so far."""

    def __init__(self, request: dict) -> None:
        self.path: str = request["path"]
        self.total: int = request["total"]
        self.rate: float = request["rate"]
        self.size: tuple[int, int] = tuple(request["size"])  # of the file, height and width
        self.patch_size: tuple[int, int] = tuple(request["patch_size"])  # to resize to
        self.indices = np.round(np.linspace(0, self.total - 1, request["count"])).astype(int)
        self._expected = (index % request["period"] for index in self.indices.tolist())
        self.seen = self.exact = 0
        self.untimed = 0.0

    def see(self, block: np.ndarray) -> None:
        """Checks the numbers of frames [n, height, width, 3]; this is not timed."""
        start = time.process_time()
        for picture in block:
            self.exact += read_number(np.asarray(picture)) == next(self._expected)
        self.seen += len(block)
        self.untimed += time.process_time() - start

    def blocks(self) -> Iterator[list[int]]:
        """Indices of frames, in blocks."""
        for start in range(0, len(self.indices), BLOCK):
            yield self.indices[start : start + BLOCK].tolist()


class _Block:
    """Gathers single frames into blocks like those of the other decoders."""

    def __init__(self, work: _Work) -> None:
        self._work, self._held = work, 0
        self._frames = np.empty((min(BLOCK, len(work.indices)), *work.size, 3), np.uint8)

    def add(self, frame: np.ndarray) -> None:
        """Copies a frame, and passes on a full block."""
        self._frames[self._held] = frame
        self._held += 1
        if self._held == len(self._frames):
            self.close()

    def close(self) -> None:
        """Passes on the frames that are left."""
        self._work.see(self._frames[: self._held])
        self._held = 0


def _ivx_frames(work: _Work) -> None:
    from data_pipelines.video import decode
    from data_pipelines.video.info import VideoInfo

    block = _Block(work)
    info = VideoInfo(work.total, work.rate, work.size[1], work.size[0])
    decode.read_frames(work.path, info, work.indices, block.add)
    block.close()


def _ivx_patches(work: _Work) -> None:
    from data_pipelines.video import decode, patches, resize
    from data_pipelines.video.info import VideoInfo

    info = VideoInfo(work.total, work.rate, work.size[1], work.size[0])
    frames = decode.read_frames(
        work.path, info, work.indices, lambda frame: resize.resize_frame(frame, *work.patch_size)
    )
    patches.patchify(np.stack(frames))
    work.see(frames)


def _raw(convert: bool) -> Callable[[_Work], None]:
    """libavcodec by PyAV on one thread: the first frames of the file, in order."""

    def run(work: _Work) -> None:
        import av

        block = _Block(work)
        with av.open(work.path) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for frame, _ in zip(container.decode(stream), work.indices, strict=False):
                if convert:
                    block.add(frame.to_ndarray(format="rgb24", threads=1))
                else:
                    work.seen += 1
        block.close()

    return run


def _torchcodec(work: _Work) -> None:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(work.path, dimension_order="NHWC", num_ffmpeg_threads=1)
    for block in work.blocks():
        work.see(decoder.get_frames_at(block).data.numpy())


def _decord(work: _Work) -> None:
    import decord

    reader = decord.VideoReader(work.path, num_threads=1)
    for block in work.blocks():
        work.see(reader.get_batch(block).asnumpy())


def _opencv(work: _Work) -> None:
    """Reads in order and retrieves the requested frames, since seeking is not exact."""
    import cv2

    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(work.path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    at = -1
    for block in work.blocks():
        held = []
        for index in block:
            while at < index:
                capture.grab()
                at += 1
            held.append(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))
        work.see(np.stack(held))


def _qwen_patches(work: _Work) -> None:
    """The examples of Qwen3-VL: qwen-vl-utils reads and resizes, the processor cuts patches."""
    _prepare_torch()
    from qwen_vl_utils.vision_process import fetch_video

    height, width = work.patch_size
    element = {
        "video": work.path,
        "nframes": len(work.indices),
        "resized_height": height,
        "resized_width": width,
    }
    video = fetch_video(element, image_patch_size=16)
    _processor()(videos=[video], do_resize=False, do_sample_frames=False, return_tensors="pt")
    work.see(video.permute(0, 2, 3, 1).numpy())


def _xtuner_patches(work: _Work) -> None:
    """decord with its default threads, a list of frames, resizing by torch, then the processor."""
    torch = _prepare_torch()
    import decord
    from torchvision.transforms import v2

    reader = decord.VideoReader(work.path, num_threads=0)
    frames = list(reader.get_batch(work.indices.tolist()).asnumpy())
    video = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
    video = v2.functional.resize(
        video, list(work.patch_size), v2.InterpolationMode.BICUBIC, antialias=True
    )
    _processor()(videos=[video], do_resize=False, do_sample_frames=False, return_tensors="pt")
    work.see(video.permute(0, 2, 3, 1).numpy())


@functools.cache
def _prepare_torch() -> ModuleType:
    """Returns torch, limited to one thread.

    With a torch without CUDA, torchvision cannot load its operators, and importing it fails for two
    that resizing does not need. Declaring these two lets the import succeed.
    """
    import torch

    torch.set_num_threads(1)
    if torch.version.cuda is None:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        # A library that is garbage-collected removes its operators.
        _LIBRARIES.append(library)
    return torch


_LIBRARIES = []


def _processor() -> Callable[..., Any]:
    from transformers import Qwen3VLVideoProcessor

    return Qwen3VLVideoProcessor(patch_size=16, merge_size=2, temporal_patch_size=2)


# Name -> the decoder, and the packages whose versions are reported.
CONTESTANTS = {
    "ivx": (_ivx_frames, ("av",)),
    "raw": (_raw(convert=False), ("av",)),
    "raw to RGB": (_raw(convert=True), ("av",)),
    "torchcodec": (_torchcodec, ("torchcodec", "torch")),
    "decord": (_decord, ("decord",)),
    "opencv": (_opencv, ("opencv-python-headless",)),
    "ivx patches": (_ivx_patches, ("av", "pillow")),
    "qwen-vl-utils patches": (_qwen_patches, ("qwen-vl-utils", "torchcodec", "transformers")),
    "xtuner-style patches": (_xtuner_patches, ("decord", "torchvision", "transformers")),
}


def main(name: str) -> None:
    """Answers requests until standard input closes."""
    run, packages = CONTESTANTS[name]
    # Libraries print to standard output, which is reserved for answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            answer = _answer(run, packages, json.loads(line))
        except Exception as error:  # whatever a peer raises is reported
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
        print(json.dumps(answer), file=answers, flush=True)


def _answer(run: Callable, packages: tuple[str, ...], request: dict) -> dict:
    work = _Work(request)
    start = time.process_time()
    run(work)
    seconds = time.process_time() - start - work.untimed
    return {
        "seconds": seconds,
        "frames": work.seen,
        "exact": work.exact,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "versions": {package: importlib.metadata.version(package) for package in packages},
    }


if __name__ == "__main__":
    main(sys.argv[1])
