"""`ivx bench loading --soak=10000`: memory over many samples, as a training run of days has them.

Clips of many sizes and lengths, as files, as records of a prepared folder, and damaged, come in a
random order from one worker process into packs of four. The memory of the worker, and of the
process that takes the packs, is noted at every pack. It is flat if the median of the last quarter
is that of the second, give or take what an allocator keeps; what is loaded first is not counted.
"""

import json
import multiprocessing
import pathlib
import resource
import tempfile
import time

import numpy as np

from ivx.commands.bench import clips

# Width, height and seconds.
CLIPS = ((64, 64, 2), (96, 64, 9), (128, 96, 4), (160, 128, 1), (224, 128, 6), (320, 192, 3))
SLACK_MIB = 24.0
_A_PACK = 4


def run(samples: int) -> dict:
    """Loads so many samples.

    Returns a dict of `ok`: whether memory stayed flat; `packs`, `skipped`, `seconds`; `worker_mib`
    and `taker_mib`: medians of the four quarters.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = _load(pathlib.Path(folder), samples)
    print(
        f"{samples:,} samples in {found['packs']:,} packs, {found['skipped']:,} skipped, in"
        f" {found['seconds']:.0f} s; MiB in quarters of the run: worker"
        f" {_listed(found['worker_mib'])}, taker {_listed(found['taker_mib'])}:"
        f" {'flat' if found['ok'] else 'GROWN'}"
    )
    return found


def flat(quarters: list[float]) -> bool:
    """Whether memory, in MiB, grew no more than an allocator's slack after the first quarter."""
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
    start, skipped, worker, taker = time.monotonic(), 0, [], []
    for loaded in batches:
        skipped += len(loaded.skipped)
        pids = [one.pid for one in multiprocessing.active_children()]
        worker.append(max(map(_megabytes, pids), default=0.0))
        taker.append(_megabytes("self"))
    worker, taker = _quarters(worker), _quarters(taker)
    return {
        "ok": flat(worker) and flat(taker),
        "packs": packs,
        "skipped": skipped,
        "seconds": round(time.monotonic() - start, 1),
        "worker_mib": worker,
        "taker_mib": taker,
    }


def _rule():
    from data_pipelines.layout import LayoutRule
    from data_pipelines.video.frames import FrameRule
    from data_pipelines.video.resize import PixelBudget
    from ivx.text import tokenizer

    budget = PixelBudget(4 * 32 * 32, 24 * 96 * 64)
    return LayoutRule(tokenizer.load("compact"), FrameRule(2.0, 4, 16), budget, budget)


def _members(folder: pathlib.Path, rule) -> list:
    """Samples of the clips as files, prepared, and damaged: three data sets of as many."""
    from data_pipelines import sources
    from data_pipelines.prepared import read, write

    whole, damaged = [], []
    for number, clip in enumerate(CLIPS):
        path = folder / f"{number}.mp4"
        clips.draw(path, clip[2], *clip[:2])
        whole.append(_annotation(path.name, clip))
        (folder / f"bad{number}.mp4").write_bytes(_damaged(path.read_bytes(), number))
        damaged.append(_annotation(f"bad{number}.mp4", clip))
    for name, lines in (("whole", whole), ("damaged", damaged)):
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
    said = {"role": "assistant", "content": "Squares move."}
    return {"id": url, "messages": [{"role": "user", "content": content}, said]}


def _damaged(data: bytes, number: int) -> bytes:
    """Cut off, or with a stretch of noise where the pictures are."""
    if number % 2:
        return data[: len(data) // 2]
    middle = len(data) // 2
    noise = np.random.default_rng(number).bytes(500)
    return data[:middle] + noise + data[middle + len(noise) :]


def _megabytes(process: int | str) -> float:
    """Memory of a process now; 0 if it has ended."""
    try:
        pages = int(pathlib.Path(f"/proc/{process}/statm").read_text().split()[1])
    except FileNotFoundError:
        return 0.0
    return pages * resource.getpagesize() / 2**20


def _quarters(series: list[float]) -> list[float]:
    return [round(float(np.median(part)), 1) for part in np.array_split(np.array(series), 4)]


def _listed(quarters: list[float]) -> str:
    return ", ".join(f"{value:.0f}" for value in quarters)
