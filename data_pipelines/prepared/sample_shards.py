"""Writes one shard of samples: each is laid out to find its size and stored, or skipped."""

import copy
import dataclasses
import json
import pathlib
from collections.abc import Mapping

import numpy as np

from data_pipelines import sources
from data_pipelines.layout import LayoutRule
from data_pipelines.media import ImageRef, VideoRef
from data_pipelines.media_error import MediaError
from data_pipelines.prepared import shards
from data_pipelines.video import decode
from data_pipelines.video.info import VideoInfo
from ivx.text.chat_template import TemplateError
from ivx.text.printable import quoted


@dataclasses.dataclass(frozen=True)
class StoredMedia:
    """A file or folder of frames in the media shards.

    Attributes:
      url: its address in the prepared folder.
      info: its size, length and rate; None if it was not stored.
      error: why it was not stored.
      is_folder: whether it is a folder of frames.
      is_proxy: whether it is a proxy, whose size and length may differ from the annotation.
    """

    url: str
    info: VideoInfo | None
    error: str | None = None
    is_folder: bool = False
    is_proxy: bool = False


@dataclasses.dataclass(frozen=True)
class SampleJob:
    """A sample shard to write.

    Attributes:
      stem: path of the shard without suffix.
      samples: the original samples.
      media: the stored media of the samples, by (kind, path).
      rule: lays the samples out.
    """

    stem: pathlib.Path
    samples: tuple[sources.Sample, ...]
    media: Mapping[tuple[str, str], StoredMedia]
    rule: LayoutRule


def write(job: SampleJob) -> None:
    """Writes the shard; its facts name the samples that were left out as unusable."""
    writer = shards.Writer(job.stem)
    root = job.stem.parents[1]
    tokens, trained, grids, counts, left_out, seconds = [], [], [], [], [], 0.0
    for sample in job.samples:
        try:
            record = _record(sample, job)
            layout = job.rule.lay_out(sources.parse_sample(record, f"sample {sample.id}", root))
        except (MediaError, TemplateError, ValueError) as error:
            left_out.append(quoted(f"sample {sample.id}: {error}"))
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
    """Returns the annotation of a sample with its media replaced by their stored copies.

    Raises:
      MediaError: a medium was not stored, or differs from its annotation.
    """
    messages = copy.deepcopy(list(sample.messages))
    refs = {"video": iter(sample.videos), "image": iter(sample.images)}
    for message in messages:
        content = message.get("content")
        for item in content if isinstance(content, list) else ():
            kind = str(item.get("type", "")).removesuffix("_url")
            if kind in refs:
                item[f"{kind}_url"] |= _media_fields(kind, next(refs[kind]), job)
    record = {"id": sample.id, "messages": messages}
    if sample.truths:
        record["truths"] = list(sample.truths)
    if sample.tools:
        record["tools"] = list(sample.tools)
    if sample.overrides:
        record["overrides"] = sample.overrides.to_dict()
    return record


def _media_fields(kind: str, ref: VideoRef | ImageRef, job: SampleJob) -> dict:
    """Returns the annotation fields that describe a stored video or image."""
    stored = job.media[kind, ref.path]
    if stored.error:
        raise MediaError(stored.error)
    info = stored.info
    if ref.info and not stored.is_proxy:
        _check_annotation(ref, stored)
        # The annotated rate is kept too, because it decides which frames are sampled.
        info = ref.info
    fields = {"url": stored.url, "image_wh": [info.width, info.height]}
    if kind == "image":
        return fields
    if ref.processed_fps:
        return fields | {
            "processed_video_length": info.num_frames,
            "processed_fps": ref.processed_fps,
        }
    if stored.is_folder and not ref.folder_fps:
        # A length without a rate is not valid; the frames are counted at layout, as before.
        return fields
    rate = ref.folder_fps if stored.is_folder else info.rate
    return fields | {"origin_video_length": info.num_frames, "origin_fps": rate}


def _check_annotation(ref: VideoRef | ImageRef, stored: StoredMedia) -> None:
    """Raises if the annotated size, length or rate differs from the stored file."""
    annotated, info = ref.info, stored.info
    # An annotation may cover only the first frames of a folder.
    frames = min(annotated.num_frames, info.num_frames) if stored.is_folder else info.num_frames
    expected = frames, info.width, info.height
    if (annotated.num_frames, annotated.width, annotated.height) != expected:
        raise MediaError(
            f"{ref.path}: {info.num_frames} frames of {info.width}x{info.height} pixels, but the"
            f" annotation says {annotated.num_frames} of {annotated.width}x{annotated.height}"
        )
    if not stored.is_folder:
        decode.check_rate(ref.path, info.rate, annotated)
