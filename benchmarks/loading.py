"""`python -m benchmarks loading`: cost of a long video in a worker, and the demand of pods.

A worker loads the same clip repeatedly, as the only sample of a pack: decoding, resizing, patches,
packing. CPU time is that of the loader; peak memory is recorded after every sample. The demand of
training jobs on pods follows from these costs. See `soak` for `--soak`.
"""

import dataclasses
import pathlib
import resource
import tempfile
import time
from collections.abc import Sequence
from concurrent import futures
from multiprocessing import get_context
from typing import Any

import numpy as np
from absl import flags

from benchmarks import clips, packing, pod_demand, soak

SUMMARY = "CPU time and memory of loading a long video, and the demand of pods."
EXAMPLE = (
    "  python -m benchmarks loading --frames=2048 --loads=20\n"
    "  python -m benchmarks loading --soak=10000"
)


@dataclasses.dataclass(frozen=True)
class Job:
    """A clip to load at one setting of `packing.SETTINGS`, `samples` times."""

    name: str
    video: pathlib.Path
    frames: int
    samples: int
    proxy: bool


def define_flags() -> None:
    """Defines the flags of this benchmark."""
    flags.DEFINE_string("video", "", "Video file; by default a synthetic clip.")
    flags.DEFINE_integer("frames", 2048, "Maximum number of sampled frames.", lower_bound=4)
    flags.DEFINE_integer("loads", 3, "Loads per setting.", lower_bound=2)
    flags.DEFINE_integer(
        "soak", 0, "Measure memory over this many small samples instead.", lower_bound=0
    )


def run(flag_values: Any, words: Sequence[str] = ()) -> dict:
    """Loads a clip at every setting, as original and as proxy."""
    del words
    if flag_values.soak:
        return soak.run(flag_values.soak)
    with tempfile.TemporaryDirectory() as folder:
        video = pathlib.Path(flag_values.video or pathlib.Path(folder) / "clip.mp4")
        if not flag_values.video:
            # Long enough at 4 frames a second, the higher rate of the settings.
            clips.draw(video, flag_values.frames / 4)
        rows = [
            _in_a_worker(Job(name, video, flag_values.frames, flag_values.loads, proxy))
            for name in packing.SETTINGS
            for proxy in (False, True)
        ]
    for row in rows:
        print(
            f"{row['setting']}, {row['source']}: {row['frames']} frames of {row['size']} in"
            f" {row['cpu_seconds']:.2f} CPU s, {row['cpu_ms_a_frame']:.2f} ms a frame; file"
            f" {row['file_mib']:.1f} MiB, pack {row['pack_mib']:,.0f} MiB, peak memory"
            f" {row['peak_mib'][0]:,.0f} MiB after 1 load, {row['peak_mib'][-1]:,.0f} after"
            f" {len(row['peak_mib'])}"
        )
    needs = pod_demand.needs(rows)
    print(pod_demand.table(needs))
    return {"rows": rows, "needs": needs}


def _in_a_worker(job: Job) -> dict:
    with futures.ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(load, job).result()


def load(job: Job) -> dict:
    """Loads the clip `job.samples` times; the CPU time is the mean."""
    from data_pipelines import loader, plan, sources
    from data_pipelines.layout import LayoutRule
    from data_pipelines.media import VideoRef
    from data_pipelines.prepared import proxy
    from data_pipelines.video import decode
    from ivx.text import tokenizer

    setting = packing.SETTINGS[job.name]
    frame_rule = setting.stage.frame_rule
    most = min(job.frames, frame_rule.max_frames)
    rule = LayoutRule(
        tokenizer.load("compact"),
        dataclasses.replace(frame_rule, max_frames=most),
        # At its own size if the pack has room; the compact tokenizer spells out timestamps.
        dataclasses.replace(
            setting.stage.budget, max_pixels=9 * setting.stage.budget.max_pixels // 10
        ),
        setting.stage.image_budget,
    )
    path, info = job.video, decode.probe(job.video)
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        if job.proxy:
            proxy.encode(str(job.video), info, frame_rule.fps, file.name)
            path, info = pathlib.Path(file.name), decode.probe(file.name)
        messages = (
            {"role": "user", "content": "<VIDEO_CONTEXT>What happens?"},
            {"role": "assistant", "content": "Squares move."},
        )
        sample = sources.Sample("clip", messages, (VideoRef(str(path), info),))
        layout = rule.lay_out(sample)
        packs = plan.Packs([[sample]], np.zeros(job.samples, np.int64), np.arange(job.samples + 1))
        planned = plan.Plan(packs, 1.0, 1.0, 1.0, 1)
        options = loader.LoaderOptions(workers=0, threads=1, prefetch=1, cache_bytes=0)
        batches = loader.batches(planned, rule, setting.shape, 1, 0, options)
        spent, peaks = [time.process_time()], []
        size = 0
        for loaded in batches:
            if loaded.skipped:
                raise RuntimeError(loaded.skipped[0])
            size = sum(
                leaf.nbytes for leaf in vars(loaded.batch).values() if hasattr(leaf, "nbytes")
            )
            spent.append(time.process_time())
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        [clip] = layout.clips
        # The prefetching thread may overlap the next sample; the mean evens this out.
        seconds = (spent[-1] - spent[0]) / job.samples
        return {
            "setting": job.name,
            "source": "proxy" if job.proxy else "original",
            "frames": len(clip.indices),
            "size": f"{clip.width}x{clip.height}",
            "cpu_seconds": seconds,
            "cpu_ms_a_frame": 1e3 * seconds / len(clip.indices),
            "file_mib": path.stat().st_size / 2**20,
            "video_seconds": info.num_frames / info.rate,
            "pack_mib": size / 2**20,
            "peak_mib": peaks,
        }
