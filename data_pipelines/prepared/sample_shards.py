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
from data_pipelines.video.info import VideoInfo
from ivx.text.chat_template import TemplateError


@dataclasses.dataclass(frozen=True)
class Stored:
    """A file in the folder: its address there and what it is, or why it is not there."""

    url: str
    info: VideoInfo | None
    error: str | None


@dataclasses.dataclass(frozen=True)
class SampleJob:
    """A shard to write.

    Attributes:
      stem: of the shard.
      samples: as they were annotated.
      stored: of their media, by (kind, path).
      rule: how they are laid out.
      lossy: whether videos are proxies, so that what annotations say of them does not hold.
    """

    stem: pathlib.Path
    samples: tuple[sources.Sample, ...]
    stored: Mapping[tuple[str, str], Stored]
    rule: LayoutRule
    lossy: bool


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
        seconds += sum(c.info.num_frames / c.info.rate for c in layout.clips if not c.still)
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
    return record


def _described(kind: str, ref, job: SampleJob) -> dict:
    """What is to be said of a video or an image of a sample."""
    stored = job.stored[kind, ref.path]
    if stored.error:
        raise MediaError(stored.error)
    info, said = stored.info, ref.info
    if said and not job.lossy:
        if (said.num_frames, said.width, said.height) != (info.num_frames, info.width, info.height):
            raise MediaError(
                f"{ref.path}: {info.num_frames} frames of {info.width}x{info.height}, where"
                f" {said.num_frames} of {said.width}x{said.height} were announced"
            )
        # The rate too is what was announced, since it says which frames are sampled.
        info = said
    described = {"url": stored.url, "image_wh": [info.width, info.height]}
    if kind == "video":
        described |= {"origin_video_length": info.num_frames, "origin_fps": info.rate}
    return described
