"""`python -m benchmarks loading --soak=10000`: memory of the loader over many samples.

One worker process loads clips of many sizes and lengths in random order into packs of four: files,
records of a prepared folder, and damaged files. The memory of the worker and of the consuming
process is recorded at every pack. It is flat if the medians of the second and the last quarter
differ by no more than the slack of an allocator; the first quarter is a warm-up.
"""

import json
import multiprocessing
import pathlib
import resource
import tempfile
import time

import numpy as np

from benchmarks import clips
from data_pipelines.layout import LayoutRule
from data_pipelines.video.frames import FrameRule
from data_pipelines.video.resize import PixelBudget

# Width, height and seconds.
CLIPS = ((64, 64, 2), (96, 64, 9), (128, 96, 4), (160, 128, 1), (224, 128, 6), (320, 192, 3))
SLACK_MIB = 24.0
_A_PACK = 4


def run(samples: int) -> dict:
    """Loads `samples` samples.

    Returns:
      `ok`, whether memory stayed flat; `packs`, `skipped` and `seconds`; `worker_mib` and
      `taker_mib`, medians of the four quarters.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = _load(pathlib.Path(folder), samples)
    print(
        f"{samples:,} samples in {result['packs']:,} packs, {result['skipped']:,} skipped, in"
        f" {result['seconds']:.0f} s; MiB by quarter of the run: worker"
        f" {_listed(result['worker_mib'])}, consumer {_listed(result['taker_mib'])}:"
        f" {'flat' if result['ok'] else 'GROWN'}"
    )
    return result


def flat(quarters: list[float]) -> bool:
    """Whether memory in MiB grew by at most SLACK_MIB after the first quarter."""
    return quarters[3] - quarters[1] <= SLACK_MIB


def _load(folder: pathlib.Path, samples: int) -> dict:
    from data_pipelines import loader, packing, plan

    rule, shape = _rule(), packing.PackShape(tokens=2048, patches=8192, slice_block=512)
    members = _members(folder, rule)
    rng = np.random.default_rng(0)
    packs = samples // _A_PACK
    ids = rng.integers(0, sum(map(len, members)), packs * _A_PACK)
    planned = plan.Packs(members, ids, np.arange(packs + 1) * _A_PACK)
    options = loader.LoaderOptions(workers=1, threads=2, prefetch=2, cache_bytes=2**24)
    batches = loader.batches(plan.Plan(planned, 1, 1, 1, 1), rule, shape, 1, 0, options)
    start, skipped, worker, consumer = time.monotonic(), 0, [], []
    for loaded in batches:
        skipped += len(loaded.skipped)
        pids = [child.pid for child in multiprocessing.active_children()]
        worker.append(max(map(_megabytes, pids), default=0.0))
        consumer.append(_megabytes("self"))
    worker, consumer = _quarters(worker), _quarters(consumer)
    return {
        "ok": flat(worker) and flat(consumer),
        "packs": packs,
        "skipped": skipped,
        "seconds": round(time.monotonic() - start, 1),
        "worker_mib": worker,
        "taker_mib": consumer,
    }


def _rule() -> LayoutRule:
    from ivx.text import tokenizer

    budget = PixelBudget(4 * 32 * 32, 24 * 96 * 64)
    return LayoutRule(tokenizer.load("compact"), FrameRule(2.0, 4, 16), budget, budget)


def _members(folder: pathlib.Path, rule: LayoutRule) -> list:
    """The clips as three data sets: files, damaged files, and a prepared folder."""
    from data_pipelines import sources
    from data_pipelines.prepared import read, write

    intact, damaged = [], []
    for number, clip in enumerate(CLIPS):
        path = folder / f"{number}.mp4"
        clips.draw(path, clip[2], *clip[:2])
        intact.append(_annotation(path.name, clip))
        (folder / f"bad{number}.mp4").write_bytes(_damaged(path.read_bytes(), number))
        damaged.append(_annotation(f"bad{number}.mp4", clip))
    for name, lines in (("whole", intact), ("damaged", damaged)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    entries = {name: {"annotation": f"{name}.jsonl"} for name in ("whole", "damaged")}
    (folder / "data.json").write_text(json.dumps(entries))
    loose = sources.read_mixture(folder / "data.json", ("whole", "damaged"))
    out = folder / "prepared"
    write.prepare(folder / "data.json", ("whole",), out, rule, write.Options(workers=0))
    return [*map(sources.read_samples, loose), read.PreparedSamples(out / "whole")]


def _annotation(url: str, clip: tuple[int, int, int]) -> dict:
    width, height, seconds = clip
    frames = seconds * clips.RATE
    video = {"url": url, "image_wh": [width, height], "origin_video_length": frames}
    content = [
        {"type": "video_url", "video_url": video | {"origin_fps": clips.RATE}},
        {"type": "text", "text": "<VIDEO_CONTEXT>What happens?"},
    ]
    answer = {"role": "assistant", "content": "Squares move."}
    return {"id": url, "messages": [{"role": "user", "content": content}, answer]}


def _damaged(data: bytes, number: int) -> bytes:
    """Truncates a file, or overwrites part of its frames with noise."""
    if number % 2:
        return data[: len(data) // 2]
    middle = len(data) // 2
    noise = np.random.default_rng(number).bytes(500)
    return data[:middle] + noise + data[middle + len(noise) :]


def _megabytes(process: int | str) -> float:
    """Resident MiB of a process; 0 if it has ended."""
    try:
        pages = int(pathlib.Path(f"/proc/{process}/statm").read_text().split()[1])
    except FileNotFoundError:
        return 0.0
    return pages * resource.getpagesize() / 2**20


def _quarters(series: list[float]) -> list[float]:
    return [round(float(np.median(part)), 1) for part in np.array_split(np.array(series), 4)]


def _listed(quarters: list[float]) -> str:
    return ", ".join(f"{value:.0f}" for value in quarters)
