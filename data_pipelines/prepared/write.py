"""Prepares a mixture: writes its media, then its samples, in shards on several processes.

An interrupted preparation continues when it is started again: complete shards are kept.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import AbstractContextManager, nullcontext

import tqdm

from data_pipelines import local_copy, sources
from data_pipelines.layout import LayoutRule
from data_pipelines.prepared import checksums, media_shards, sample_shards, shards, summary
from data_pipelines.prepared import manifest as manifests
from data_pipelines.prepared.media_shards import MediaFile, MediaJob
from data_pipelines.prepared.sample_shards import SampleJob, StoredMedia
from data_pipelines.process_pool import process_pool
from data_pipelines.sources import validation
from data_pipelines.video.info import VideoInfo

# Size assumed for media whose size is unknown until they are read.
_UNKNOWN_BYTES = 2**22
# Names at the top level of a prepared folder, which no data set can have.
_RESERVED_NAMES = ("media", checksums.FILE, *manifests.TOP_LEVEL_FILES)

Samples = Mapping[str, Sequence[sources.Sample]]


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a preparation.

    Attributes:
      workers: number of processes; 0 does all work in this one.
      proxy_fps: frames per second of proxies, see `proxy`; 0 keeps the original bytes.
      shard_bytes: media bytes per shard, to within one file.
      shard_samples: samples per shard.
      max_bad_samples: up to this many unusable annotations are skipped; more are an error.
    """

    workers: int = 2
    proxy_fps: float = 0.0
    shard_bytes: int = 2**28
    shard_samples: int = 1024
    max_bad_samples: int = 0


def prepare(
    mixture: pathlib.Path,
    names: Sequence[str],
    out: pathlib.Path,
    rule: LayoutRule,
    options: Options,
) -> dict:
    """Writes data sets of a mixture file to a prepared folder.

    Args:
      mixture: the mixture file.
      names: the data sets to prepare.
      out: the folder to write; no other process may write there meanwhile.
      rule: lays samples out to find their sizes.
      options: workers, shard sizes and proxies.

    Returns:
      The top-level manifest.

    Raises:
      AnnotationError: the mixture or an annotation is not usable.
      FileExistsError: `out` holds something else.
    """
    mixture = pathlib.Path(mixture).resolve()
    data_sets = sources.read_mixture(mixture, tuple(names))
    for data_set in data_sets:
        if data_set.name in _RESERVED_NAMES:
            raise sources.AnnotationError(
                f"{mixture}: the name of data set {data_set.name} is reserved in a prepared folder;"
                " rename it"
            )
    validation.check_overrides(mixture, data_sets, rule)
    annotations = {data_set.name: sources.read(data_set) for data_set in data_sets}
    samples = {name: part.samples for name, part in annotations.items()}
    faults = {name: part.sentences for name, part in annotations.items()}
    validation.check_faults(
        mixture,
        [(data_set, samples[data_set.name], faults[data_set.name]) for data_set in data_sets],
        options.max_bad_samples,
    )
    _claim_folder(out, _request(mixture, samples, rule, options))
    media_jobs = [
        MediaJob(out / "media" / f"{number:05d}", part, options.proxy_fps, rule.limits)
        for number, part in enumerate(_partition_media(out / "media.json", samples, options))
    ]
    with _pool(options.workers) as pool:
        _run(pool, media_shards.write, media_jobs, "media")
        media = _stored_media(media_jobs)
        sample_jobs = {
            name: list(_sample_jobs(out / name, samples[name], media, rule, options))
            for name in samples
        }
        all_jobs = [job for part in sample_jobs.values() for job in part]
        _run(pool, sample_shards.write, all_jobs, "samples")
    manifest = {
        "version": manifests.VERSION,
        "proxy_fps": options.proxy_fps,
        "media": summary.media_summary([job.stem for job in media_jobs]),
        "data_sets": {
            name: summary.write_manifest(out / name, [job.stem for job in part], rule, faults[name])
            for name, part in sample_jobs.items()
        },
    }
    shards.write_json(out / manifests.FILE, manifest)
    entries = {
        data_set.name: {"annotation": data_set.name, "sample_ratio": data_set.sample_ratio}
        for data_set in data_sets
    }
    summary.write_checksums(out, manifest, entries)
    return manifest


def _request(mixture: pathlib.Path, samples: Samples, rule: LayoutRule, options: Options) -> dict:
    """Everything that determines the contents of the folder."""
    checksum = hashlib.sha256()
    for part in samples.values():
        for sample in part:
            checksum.update(repr(sample).encode())
    return {
        "version": manifests.VERSION,
        "mixture": str(mixture),
        "data_sets": list(samples),
        "samples_sha256": checksum.hexdigest(),
        "proxy_fps": options.proxy_fps,
        "shard_bytes": options.shard_bytes,
        "shard_samples": options.shard_samples,
        "rule": summary.rule_fields(rule),
    }


def _claim_folder(out: pathlib.Path, request: dict) -> None:
    """Creates the folder for a request, or checks that it holds the same request."""
    path = out / "job.json"
    # A start that was killed here leaves half of job.json, which is written first.
    foreign = [file for file in out.iterdir() if not _is_ours(file)] if out.is_dir() else []
    if path.is_file():
        previous = json.loads(path.read_text(encoding="utf-8"))
        differing = sorted(key for key in request if previous.get(key) != request[key])
        if differing:
            raise FileExistsError(
                f"{out} holds a preparation with different {', '.join(differing)}; choose another"
                " folder"
            )
    elif out.is_file() or foreign:
        raise FileExistsError(f"{out} holds other files; choose another folder")
    else:
        out.mkdir(parents=True, exist_ok=True)
        shards.write_json(path, request)


def _is_ours(file: pathlib.Path) -> bool:
    """Whether a file is in the folder before job.json: a part of it, or a lock."""
    return file.name == f"job.json{shards.PARTIAL}" or file.name.startswith(".ivx-")


def _partition_media(
    path: pathlib.Path, samples: Samples, options: Options
) -> list[tuple[MediaFile, ...]]:
    """Assigns each media file to one shard, in the order of first use.

    The assignment is stored at `path`, because the originals may change size or disappear before an
    interrupted preparation continues.
    """
    if not path.is_file():
        parts, size = [[]], 0
        for file in _media_files(samples):
            if size >= options.shard_bytes:
                parts.append([])
                size = 0
            parts[-1].append(dataclasses.astuple(file))
            size += _estimated_bytes(file.path)
        shards.write_json(path, {"shards": [part for part in parts if part]})
    stored = json.loads(path.read_text(encoding="utf-8"))["shards"]
    return [tuple(MediaFile(*file) for file in part) for part in stored]


def _media_files(samples: Samples) -> Iterator[MediaFile]:
    """Yields the distinct media of all samples."""
    files: dict[tuple[str, str], bool] = {}
    for part in samples.values():
        for sample in part:
            for video in sample.videos:
                key = "video", video.path
                files[key] = files.get(key, False) or bool(video.processed_fps or video.times)
            for image in sample.images:
                files["image", image.path] = True
    for (kind, path), keep_original in files.items():
        yield MediaFile(kind, path, keep_original)


def _estimated_bytes(path: str) -> int:
    """Size of a local file or folder; remote files are not queried."""
    if local_copy.is_external(path):
        return _UNKNOWN_BYTES
    try:
        if os.path.isdir(path):
            return sum(entry.stat().st_size for entry in os.scandir(path))
        return os.path.getsize(path)
    except (OSError, ValueError):  # reported when it is stored
        return 0


def _stored_media(jobs: Sequence[MediaJob]) -> dict[tuple[str, str], StoredMedia]:
    """The contents of the media shards by (kind, path)."""
    media = {}
    for job in jobs:
        for entry in shards.read_facts(job.stem)["media"]:
            key = entry["kind"], entry["path"]
            if "error" in entry:
                media[key] = StoredMedia("", None, entry["error"])
                continue
            count = entry.get("frames")
            name = local_copy.file_name(entry["path"])
            stem, pieces = f"media/{job.stem.name}", entry.get("pieces", 1)
            media[key] = StoredMedia(
                shards.address(stem, entry["record"], name, count, pieces),
                VideoInfo(**entry["info"]),
                is_folder=count is not None,
                is_proxy=entry.get("proxy", False),
            )
    return media


def _sample_jobs(
    folder: pathlib.Path,
    samples: Sequence[sources.Sample],
    media: Mapping[tuple[str, str], StoredMedia],
    rule: LayoutRule,
    options: Options,
) -> Iterator[SampleJob]:
    for number, first in enumerate(range(0, len(samples), options.shard_samples)):
        part = tuple(samples[first : first + options.shard_samples])
        keys = {("video", video.path) for sample in part for video in sample.videos}
        keys |= {("image", image.path) for sample in part for image in sample.images}
        yield SampleJob(folder / f"{number:05d}", part, {key: media[key] for key in keys}, rule)


def _pool(workers: int) -> AbstractContextManager[futures.Executor | None]:
    return process_pool(workers) if workers else nullcontext()


def _run(
    pool: futures.Executor | None,
    write: Callable[..., None],
    jobs: Sequence[MediaJob] | Sequence[SampleJob],
    name: str,
) -> None:
    """Writes the shards that are not complete."""
    missing = [job for job in jobs if not shards.is_complete(job.stem)]
    bar = tqdm.tqdm(
        total=len(jobs), initial=len(jobs) - len(missing), desc=f"prepare {name}", unit=" shards"
    )
    waiting = [pool.submit(write, job) for job in missing] if pool else []
    try:
        for future in futures.as_completed(waiting):
            future.result()
            bar.update()
        for job in () if pool else missing:
            write(job)
            bar.update()
    finally:
        for future in waiting:
            future.cancel()
        bar.close()
