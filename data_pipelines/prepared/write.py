"""Prepares a mixture: media first, then samples, shard by shard, on several processes.

Started again after it was cut off, it writes what shards are missing; what is there is kept.
"""

import collections
import contextlib
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from multiprocessing import get_context

import numpy as np
import tqdm

from data_pipelines import nearby, sources
from data_pipelines.layout import LayoutRule
from data_pipelines.prepared import checksums, media_shards, sample_shards, shards
from data_pipelines.prepared import manifest as manifests
from data_pipelines.prepared.media_shards import MediaFile, MediaJob
from data_pipelines.prepared.sample_shards import SampleJob, Stored
from data_pipelines.sources import usable
from data_pipelines.video.info import VideoInfo

# Media whose size is not known before they are read count as much.
_UNKNOWN_BYTES = 2**22
# Beside the folders of data sets.
_OWN_NAMES = ("media", checksums.FILE, *manifests.OWN_FILES)


@dataclasses.dataclass(frozen=True)
class Options:
    """How to prepare.

    Attributes:
      workers: processes; 0: all is done in this one.
      proxy_fps: frames a second of proxies, see `proxy`; 0 keeps the bytes of the files.
      shard_bytes: media of a shard, one file more or less.
      shard_samples: samples of a shard.
      max_bad_samples: unusable annotations that are left out; where there are more, nothing is
        prepared.
    """

    workers: int = 2
    proxy_fps: float = 0.0
    shard_bytes: int = 2**28
    shard_samples: int = 1024
    max_bad_samples: int = 0


def prepare(
    mixture: pathlib.Path, names: Sequence[str], out: pathlib.Path, rule: LayoutRule, how: Options
) -> dict:
    """Writes the named data sets of a mixture file under `out`; returns the manifest.

    Raises:
      AnnotationError: the mixture or an annotation cannot be used.
      FileExistsError: `out` holds something else.
    """
    mixture = pathlib.Path(mixture).resolve()
    data_sets = sources.read_mixture(mixture, tuple(names))
    for one in data_sets:
        if one.name in _OWN_NAMES:
            raise sources.AnnotationError(
                f"{mixture}: data set {one.name} would lie where the prepared folder has files of"
                " its own; name it otherwise"
            )
    usable.check_bounds(mixture, data_sets, rule)
    found = {one.name: sources.read(one) for one in data_sets}
    samples = {name: one.samples for name, one in found.items()}
    faults = {name: one.sentences for name, one in found.items()}
    read = [(one, samples[one.name], faults[one.name]) for one in data_sets]
    usable.check_found(mixture, read, how.max_bad_samples)
    _claim(out, _asked(mixture, samples, rule, how))
    media_jobs = [
        MediaJob(out / "media" / f"{number:05d}", part, how.proxy_fps, rule.limits)
        for number, part in enumerate(_partition(out / "media.json", samples, how))
    ]
    with _pool(how.workers) as pool:
        _run(pool, media_shards.write, media_jobs, "media")
        stored = _stored(media_jobs)
        jobs = {
            name: list(_sample_jobs(out / name, samples[name], stored, rule, how))
            for name in samples
        }
        _run(pool, sample_shards.write, [job for part in jobs.values() for job in part], "samples")
    manifest = {
        "version": manifests.VERSION,
        "proxy_fps": how.proxy_fps,
        "media": _media_facts([job.stem for job in media_jobs]),
        "data_sets": {
            name: _finish(out / name, [job.stem for job in part], rule, faults[name])
            for name, part in jobs.items()
        },
    }
    shards.write_json(out / manifests.FILE, manifest)
    entries = {
        one.name: {"annotation": one.name, "sample_ratio": one.sample_ratio} for one in data_sets
    }
    _seal(out, manifest, entries)
    return manifest


def rule_facts(rule: LayoutRule) -> dict:
    """Everything that sizes of samples depend on, as JSON has it."""
    facts = {}
    for field in dataclasses.fields(rule):
        if field.name == "limits":
            continue
        value = getattr(rule, field.name)
        facts[field.name] = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
    facts["tokenizer"] = rule.tokenizer.fingerprint
    return json.loads(json.dumps(facts))


def _asked(mixture, samples: Mapping[str, list], rule: LayoutRule, how: Options) -> dict:
    """What decides the contents of the folder."""
    checksum = hashlib.sha256()
    for found in samples.values():
        for sample in found:
            checksum.update(repr(sample).encode())
    return {
        "version": manifests.VERSION,
        "mixture": str(mixture),
        "data_sets": list(samples),
        "samples_sha256": checksum.hexdigest(),
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


def _partition(path: pathlib.Path, samples: dict, how: Options) -> list[tuple[MediaFile, ...]]:
    """The files of each shard: each once, in the order in which samples name them.

    Written down, since a preparation that goes on may find files of another size, or none.
    """
    if not path.is_file():
        parts, held = [[]], 0
        for file in _media_files(samples):
            if held >= how.shard_bytes:
                parts.append([])
                held = 0
            parts[-1].append(dataclasses.astuple(file))
            held += _bytes(file.path)
        shards.write_json(path, {"shards": [part for part in parts if part]})
    found = json.loads(path.read_text(encoding="utf-8"))["shards"]
    return [tuple(MediaFile(*file) for file in part) for part in found]


def _media_files(samples: dict) -> Iterator[MediaFile]:
    files: dict[tuple[str, str], bool] = {}
    for found in samples.values():
        for sample in found:
            for video in sample.videos:
                key = "video", video.path
                files[key] = files.get(key, False) or bool(video.processed_fps or video.times)
            for image in sample.images:
                files["image", image.path] = True
    for (kind, path), whole in files.items():
        yield MediaFile(kind, path, whole)


def _bytes(path: str) -> int:
    """About as many as it will take; what lies elsewhere is not asked for its size."""
    if nearby.is_elsewhere(path):
        return _UNKNOWN_BYTES
    place = pathlib.Path(path)
    if place.is_dir():
        return sum(file.stat().st_size for file in place.iterdir())
    return place.stat().st_size if place.is_file() else 0


def _stored(jobs: Sequence[MediaJob]) -> dict[tuple[str, str], Stored]:
    found = {}
    for job in jobs:
        for entry in shards.read_facts(job.stem)["media"]:
            key = entry["kind"], entry["path"]
            if "error" in entry:
                found[key] = Stored("", None, entry["error"])
                continue
            count = entry.get("frames")
            name = nearby.name(entry["path"])
            stem, pieces = f"media/{job.stem.name}", entry.get("pieces", 1)
            url = shards.address(stem, entry["record"], name, count, pieces)
            info = VideoInfo(**entry["info"])
            found[key] = Stored(
                url, info, is_folder=count is not None, is_proxy=entry.get("proxy", False)
            )
    return found


def _sample_jobs(
    folder: pathlib.Path, samples: Sequence[sources.Sample], stored: dict, rule, how: Options
) -> Iterator[SampleJob]:
    for number, first in enumerate(range(0, len(samples), how.shard_samples)):
        part = tuple(samples[first : first + how.shard_samples])
        named = {("video", v.path) for s in part for v in s.videos}
        named |= {("image", i.path) for s in part for i in s.images}
        own = {key: stored[key] for key in named}
        yield SampleJob(folder / f"{number:05d}", part, own, rule)


def _pool(workers: int):
    if not workers:
        return contextlib.nullcontext()
    return futures.ProcessPoolExecutor(workers, mp_context=get_context("spawn"))


def _run(pool: futures.Executor | None, write: Callable, jobs: Sequence, name: str) -> None:
    """Does the jobs whose shards are not whole yet."""
    missing = [job for job in jobs if not shards.done(job.stem)]
    bar = tqdm.tqdm(
        total=len(jobs), initial=len(jobs) - len(missing), desc=f"prepare {name}", unit=" shards"
    )
    waiting = [pool.submit(write, job) for job in missing] if pool else []
    try:
        for one in futures.as_completed(waiting):
            one.result()
            bar.update()
        for job in () if pool else missing:
            write(job)
            bar.update()
    finally:
        for one in waiting:
            one.cancel()
        bar.close()


def _seal(out: pathlib.Path, manifest: dict, entries: dict) -> None:
    """Writes the checksums of all files, those of shards as of when they were written."""
    known = {}
    for name, part in {"media": manifest["media"], **manifest["data_sets"]}.items():
        for shard in part["shards"]:
            stem = shard["file"].removesuffix(shards.RECORDS)
            known[f"{name}/{stem}{shards.RECORDS}"] = shard["sha256"]
            known[f"{name}/{stem}.npz"] = shard["columns_sha256"]
    entries = shards.json_text(entries)
    known["data.json"] = hashlib.sha256(entries.encode()).hexdigest()
    names = (*manifests.OWN_FILES, *manifests.files(manifest))
    sums = {name: known.get(name) or checksums.of(out / name) for name in names}
    shards.write_text(out / checksums.FILE, checksums.text(sums))
    shards.write_text(out / "data.json", entries)


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
    keys = ("records", "bytes", "sha256", "columns_sha256")
    return [
        {"file": stem.name + shards.RECORDS} | {key: facts[key] for key in keys}
        for stem, facts in zip(stems, found, strict=True)
    ]


def _finish(
    folder: pathlib.Path,
    stems: Sequence[pathlib.Path],
    rule: LayoutRule,
    faults: Sequence[str],
) -> dict:
    """Writes the manifest of one data set; returns it."""
    found = [shards.read_facts(stem) for stem in stems]
    columns = [shards.read_columns(stem) for stem in stems]
    left_out = [sentence for facts in found for sentence in facts["left_out"]]
    manifest = {
        "version": manifests.VERSION,
        "shards": _listed(stems, found),
        "rule": rule_facts(rule),
        "faults": list(faults),
        "left_out": left_out,
        "statistics": statistics(columns)
        | {"video_hours": sum(facts["video_seconds"] for facts in found) / 3600},
    }
    shards.write_json(folder / manifests.FILE, manifest)
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
