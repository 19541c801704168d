"""Annotations that tests write: text, videos, mixtures, folders of frames."""

import dataclasses
import json
import pathlib
from typing import Any

from PIL import Image

from data_pipelines import sources
from data_pipelines.layout import LayoutRule

ANSWER = {"role": "assistant", "content": "Yes."}
TEXT_RECORD = {
    "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
}


def video_messages(
    text: str = "<VIDEO_CONTEXT>What?", url: str | None = "a.mp4", **video: Any
) -> list[dict]:
    """A question about a video, and its answer."""
    item = {"type": "video_url", "video_url": {"url": url, **video}}
    return [{"role": "user", "content": [item, {"type": "text", "text": text}]}, ANSWER]


def data_set(folder: pathlib.Path, *lines: Any, **changes: Any) -> sources.DataSet:
    """A data set of one file. A line is an object, or bytes that are written unchanged."""
    file = folder / "x.jsonl"
    encoded = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    file.write_bytes(b"".join(line + b"\n" for line in encoded))
    return dataclasses.replace(sources.DataSet("x", (file,), folder, 1.0), **changes)


def mixture(folder: pathlib.Path, **entry: Any) -> pathlib.Path:
    """A mixture of one data set with one text sample."""
    (folder / "x.jsonl").write_text(json.dumps(TEXT_RECORD) + "\n")
    path = folder / "data.json"
    path.write_text(json.dumps({"x": {"annotation": "x.jsonl", **entry}}))
    return path


def parse(messages: list[dict], root: str | pathlib.Path = "/tmp", **keys: Any) -> sources.Sample:
    """The sample of an annotation."""
    return sources.parse_sample({"messages": messages, **keys}, "here", pathlib.Path(root))


def rendered(rule: LayoutRule, sample: sources.Sample) -> str:
    """The text of a laid-out sample, with special tokens."""
    return rule.tokenizer.decode(rule.lay_out(sample).tokens, skip_special=False)


def frames_of(folder: pathlib.Path, count: int = 7) -> pathlib.Path:
    """A folder of frames of increasing brightness."""
    folder.mkdir()
    for number in range(1, count + 1):
        Image.new("RGB", (64, 32), (30 * number, 0, 0)).save(folder / f"{number:08d}.jpg")
    return folder
