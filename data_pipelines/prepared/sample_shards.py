"""One shard of samples: each is laid out, so that its size is known, and written, or named."""

import copy
import dataclasses
import json
import pathlib
from collections.abc import Mapping

import numpy as np

from data_pipelines import sources
from data_pipelines.layout import LayoutRule
from data_pipelines.media_error import MediaError
from data_pipelines.prepared import shards
from data_pipelines.sources import overriding
from data_pipelines.video import decode
from data_pipelines.video.info import VideoInfo
from ivx.text.chat_template import TemplateError


@dataclasses.dataclass(frozen=True)
class Stored:
    """A file in the folder, or a folder of frames in it.

    Attributes:
      url: its address there.
      info: what it is; None if it is not there.
      error: why it is not there.
      is_folder: whether it is a folder of frames.
      is_proxy: whether it is a proxy, so that what annotations say of it does not hold.
    """

    url: str
    info: VideoInfo | None
    error: str | None = None
    is_folder: bool = False
    is_proxy: bool = False


@dataclasses.dataclass(frozen=True)
class SampleJob:
    """A shard to write.

    Attributes:
      stem: of the shard.
      samples: as they were annotated.
      stored: of their media, by (kind, path).
      rule: how they are laid out.
    """

    stem: pathlib.Path
    samples: tuple[sources.Sample, ...]
    stored: Mapping[tuple[str, str], Stored]
    rule: LayoutRule


def write(job: SampleJob) -> None:
    """Writes the shard; samples that cannot be used are left out and named in its facts."""
    writer = shards.Writer(job.stem)
    root = job.stem.parents[1]
    tokens, trained, grids, counts, left_out, seconds = [], [], [], [], [], 0.0
    for sample in job.samples:
        try:
            record = _record(sample, job)
            layout = job.rule(sources.sample(record, f"sample {sample.id}", root))
        except (MediaError, TemplateError, ValueError) as error:
            left_out.append(f"sample {sample.id}: {error}")
            continue
        writer.add(json.dumps(record, ensure_ascii=False).encode())
        tokens.append(len(layout.tokens))
        trained.append(int(layout.trained.sum()))
        grids += [(*clip.patch_shape, len(clip.times)) for clip in layout.clips]
        counts.append(len(layout.clips))
        seconds += sum(
            clip.info.num_frames / clip.info.rate
            for clip in layout.clips
            if clip.info.timed and not clip.still
        )
    columns = {
        "tokens": np.array(tokens, np.int32),
        "trained": np.array(trained, np.int32),
        "grids": np.array(grids, np.int32).reshape(-1, 3),
        "bounds": np.cumsum([0, *counts], dtype=np.int64),
    }
    writer.finish(columns, {"left_out": left_out, "video_seconds": round(seconds, 3)})


def _record(sample: sources.Sample, job: SampleJob) -> dict:
    """The annotation of a sample with its media in the folder, and what they are.

    Raises:
      MediaError: one of them is not there, or is not what was announced.
    """
    messages = copy.deepcopy(list(sample.messages))
    refs = {"video": iter(sample.videos), "image": iter(sample.images)}
    for message in messages:
        content = message.get("content")
        for item in content if isinstance(content, list) else ():
            kind = str(item.get("type", "")).removesuffix("_url")
            if kind in refs:
                item[f"{kind}_url"] |= _described(kind, next(refs[kind]), job)
    record = {"id": sample.id, "messages": messages}
    if sample.truths:
        record["truths"] = list(sample.truths)
    if sample.tools:
        record["tools"] = list(sample.tools)
    if sample.overrides:
        record["overrides"] = overriding.written(sample.overrides)
    return record


def _described(kind: str, ref, job: SampleJob) -> dict:
    """What is to be said of a video or an image of a sample."""
    stored = job.stored[kind, ref.path]
    if stored.error:
        raise MediaError(stored.error)
    info = stored.info
    if ref.info and not stored.is_proxy:
        _check(ref, stored)
        # The rate too is what was announced, since it says which frames are sampled.
        info = ref.info
    described = {"url": stored.url, "image_wh": [info.width, info.height]}
    if kind == "image":
        return described
    if ref.processed_fps:
        return described | {
            "processed_video_length": info.num_frames,
            "processed_fps": ref.processed_fps,
        }
    if stored.is_folder and not ref.said_fps:
        # Without a rate it is not described; it is counted when it is laid out, as before.
        return described
    rate = ref.said_fps if stored.is_folder else info.rate
    return described | {"origin_video_length": info.num_frames, "origin_fps": rate}


def _check(ref, stored: Stored) -> None:
    said, info = ref.info, stored.info
    # Of a folder the first frames alone may be meant.
    frames = min(said.num_frames, info.num_frames) if stored.is_folder else info.num_frames
    if (said.num_frames, said.width, said.height) != (frames, info.width, info.height):
        raise MediaError(
            f"{ref.path}: {info.num_frames} frames of {info.width}x{info.height}, where"
            f" {said.num_frames} of {said.width}x{said.height} were announced"
        )
    if not stored.is_folder:
        decode.check_rate(ref.path, info.rate, said)
