"""Prepares a mixture: media first, then samples, shard by shard, on several processes.

Started again after it was cut off, it writes what shards are missing; what is there is kept.
"""

import collections
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from multiprocessing import get_context

import numpy as np
import tqdm

from data_pipelines import sources
from data_pipelines.layout import LayoutRule
from data_pipelines.prepared import media_shards, sample_shards, shards
from data_pipelines.prepared.media_shards import MediaJob
from data_pipelines.prepared.sample_shards import SampleJob, Stored
from data_pipelines.video.info import VideoInfo

VERSION = 1
MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class Options:
    """How to prepare.

    Attributes:
      workers: processes.
      proxy_fps: frames a second of proxies, see `proxy`; 0 keeps the bytes of the files.
      shard_bytes: media of a shard, one file more or less.
      shard_samples: samples of a shard.
    """

    workers: int = 2
    proxy_fps: float = 0.0
    shard_bytes: int = 2**28
    shard_samples: int = 1024


def prepare(
    mixture: pathlib.Path, names: Sequence[str], out: pathlib.Path, rule: LayoutRule, how: Options
) -> dict:
    """Writes the named data sets of a mixture file under `out`; returns the manifest.

    Raises:
      AnnotationError: the mixture or an annotation cannot be used.
      FileExistsError: `out` holds something else.
    """
    data_sets = sources.read_mixture(mixture, tuple(names))
    _claim(out, _asked(mixture, data_sets, rule, how))
    samples = {one.name: sources.read_samples(one) for one in data_sets}
    with futures.ProcessPoolExecutor(how.workers, mp_context=get_context("spawn")) as pool:
        media_jobs = list(_media_jobs(samples, out, how))
        _run(pool, media_shards.write, media_jobs, "media")
        stored = _stored(media_jobs)
        jobs = {
            name: list(_sample_jobs(out / name, samples[name], stored, rule, how))
            for name in samples
        }
        _run(pool, sample_shards.write, [job for part in jobs.values() for job in part], "samples")
    manifest = {
        "version": VERSION,
        "proxy_fps": how.proxy_fps,
        "media": _media_facts([job.stem for job in media_jobs]),
        "data_sets": {
            one.name: _finish(out / one.name, [job.stem for job in jobs[one.name]], rule)
            for one in data_sets
        },
    }
    shards.write_json(out / MANIFEST, manifest)
    entries = {
        one.name: {"annotation": one.name, "sample_ratio": one.sample_ratio} for one in data_sets
    }
    shards.write_json(out / "data.json", entries)
    return manifest


def rule_facts(rule: LayoutRule) -> dict:
    """Everything that sizes of samples depend on, as JSON has it."""
    facts = {}
    for field in dataclasses.fields(rule):
        value = getattr(rule, field.name)
        facts[field.name] = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
    facts["tokenizer"] = rule.tokenizer.fingerprint
    return json.loads(json.dumps(facts))


def _asked(mixture, data_sets, rule: LayoutRule, how: Options) -> dict:
    """What decides the contents of the folder."""
    checksum = hashlib.sha256()
    for one in data_sets:
        for file in one.annotations:
            checksum.update(file.read_bytes())
    return {
        "version": VERSION,
        "mixture": str(pathlib.Path(mixture).resolve()),
        "data_sets": [one.name for one in data_sets],
        "annotations_sha256": checksum.hexdigest(),
        "proxy_fps": how.proxy_fps,
        "shard_bytes": how.shard_bytes,
        "shard_samples": how.shard_samples,
        "rule": rule_facts(rule),
    }


def _claim(out: pathlib.Path, asked: dict) -> None:
    path = out / "job.json"
    if path.is_file():
        there = json.loads(path.read_text(encoding="utf-8"))
        differing = sorted(key for key in asked if there.get(key) != asked[key])
        if differing:
            raise FileExistsError(
                f"{out} holds another preparation, with other {', '.join(differing)}"
            )
    elif out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} holds files that no preparation made")
    else:
        out.mkdir(parents=True, exist_ok=True)
        shards.write_json(path, asked)


def _media_jobs(samples: dict, out: pathlib.Path, how: Options) -> Iterator[MediaJob]:
    """Each file once, in the order in which samples name them."""
    files = dict.fromkeys(
        (kind, ref.path)
        for found in samples.values()
        for sample in found
        for kind, refs in (("video", sample.videos), ("image", sample.images))
        for ref in refs
    )
    part, held, number = [], 0, 0
    for kind, path in files:
        part.append((kind, path))
        held += pathlib.Path(path).stat().st_size if pathlib.Path(path).is_file() else 0
        if held >= how.shard_bytes:
            yield MediaJob(out / "media" / f"{number:05d}", tuple(part), how.proxy_fps)
            part, held, number = [], 0, number + 1
    if part:
        yield MediaJob(out / "media" / f"{number:05d}", tuple(part), how.proxy_fps)


def _stored(jobs: Sequence[MediaJob]) -> dict[tuple[str, str], Stored]:
    found = {}
    for job in jobs:
        for entry in shards.read_facts(job.stem)["media"]:
            key = entry["kind"], entry["path"]
            if "error" in entry:
                found[key] = Stored("", None, entry["error"])
            else:
                url = shards.address(f"media/{job.stem.name}", entry["record"], entry["path"])
                found[key] = Stored(url, VideoInfo(**entry["info"]), None)
    return found


def _sample_jobs(
    folder: pathlib.Path, samples: Sequence[sources.Sample], stored: dict, rule, how: Options
) -> Iterator[SampleJob]:
    for number, first in enumerate(range(0, len(samples), how.shard_samples)):
        part = tuple(samples[first : first + how.shard_samples])
        named = {("video", v.path) for s in part for v in s.videos}
        named |= {("image", i.path) for s in part for i in s.images}
        own = {key: stored[key] for key in named}
        yield SampleJob(folder / f"{number:05d}", part, own, rule, how.proxy_fps > 0)


def _run(pool: futures.Executor, write: Callable, jobs: Sequence, name: str) -> None:
    """Does the jobs whose shards are not whole yet."""
    missing = [job for job in jobs if not shards.done(job.stem)]
    bar = tqdm.tqdm(
        total=len(jobs), initial=len(jobs) - len(missing), desc=f"prepare {name}", unit=" shards"
    )
    waiting = [pool.submit(write, job) for job in missing]
    try:
        for one in futures.as_completed(waiting):
            one.result()
            bar.update()
    finally:
        for one in waiting:
            one.cancel()
        bar.close()


def _media_facts(stems: Sequence[pathlib.Path]) -> dict:
    found = [shards.read_facts(stem) for stem in stems]
    entries = [entry for facts in found for entry in facts["media"]]
    good = [entry for entry in entries if "error" not in entry]
    return {
        "shards": _listed(stems, found),
        "files": len(good),
        "videos": sum(entry["kind"] == "video" for entry in good),
        "bytes": sum(entry["bytes"] for entry in good),
        "unreadable": [entry["error"] for entry in entries if "error" in entry],
    }


def _listed(stems, found) -> list[dict]:
    keys = ("records", "bytes", "sha256")
    return [
        {"file": stem.name + shards.RECORDS} | {key: facts[key] for key in keys}
        for stem, facts in zip(stems, found, strict=True)
    ]


def _finish(folder: pathlib.Path, stems: Sequence[pathlib.Path], rule: LayoutRule) -> dict:
    """Writes the manifest of one data set; returns it."""
    found = [shards.read_facts(stem) for stem in stems]
    columns = [shards.read_columns(stem) for stem in stems]
    left_out = [sentence for facts in found for sentence in facts["left_out"]]
    manifest = {
        "version": VERSION,
        "shards": _listed(stems, found),
        "rule": rule_facts(rule),
        "left_out": left_out,
        "statistics": statistics(columns)
        | {"video_hours": sum(facts["video_seconds"] for facts in found) / 3600},
    }
    shards.write_json(folder / MANIFEST, manifest)
    return manifest


def statistics(columns: Sequence[dict[str, np.ndarray]]) -> dict:
    """Counts over the shards of a data set."""
    tokens = np.concatenate([part["tokens"] for part in columns]).astype(np.int64)
    grids = np.concatenate([part["grids"] for part in columns]).astype(np.int64)
    # The length of a bin is twice that of the one before it.
    bins = collections.Counter(int(n).bit_length() for n in tokens)
    return {
        "samples": len(tokens),
        "tokens": int(tokens.sum()),
        "trained_tokens": int(sum(part["trained"].sum() for part in columns)),
        "visual_tokens": int(grids.prod(1).sum() // 4),
        "slices": int(grids[:, 2].sum()),
        "tokens_quantiles": {
            str(q): int(np.quantile(tokens, q)) if len(tokens) else 0 for q in (0.1, 0.5, 0.9, 0.99)
        },
        "longest": int(tokens.max(initial=0)),
        "lengths_below": {str(2**bits): bins[bits] for bits in sorted(bins)},
    }
