"""Annotations that tests write: texts, videos, mixtures, folders of frames."""

import dataclasses
import json
import pathlib

from PIL import Image

from data_pipelines import sources

WORDS = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}
SAID = {"role": "assistant", "content": "Yes."}


def shown(said: str = "<VIDEO_CONTEXT>What?", url: str = "a.mp4", **video) -> list[dict]:
    """Messages about a video."""
    item = {"type": "video_url", "video_url": {"url": url, **video}}
    return [{"role": "user", "content": [item, {"type": "text", "text": said}]}, SAID]


def data_set(folder, *lines, **changes) -> sources.DataSet:
    """Lines, as objects or as they are, in a file of a data set."""
    file = folder / "x.jsonl"
    encoded = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    file.write_bytes(b"".join(line + b"\n" for line in encoded))
    return dataclasses.replace(sources.DataSet("x", (file,), folder, 1.0), **changes)


def mixture(folder, **entry) -> pathlib.Path:
    """A mixture of one data set of one text."""
    (folder / "x.jsonl").write_text(json.dumps(WORDS) + "\n")
    path = folder / "data.json"
    path.write_text(json.dumps({"x": {"annotation": "x.jsonl", **entry}}))
    return path


def parse(messages: list[dict], root="/tmp", **more) -> sources.Sample:
    return sources.sample({"messages": messages, **more}, "here", pathlib.Path(root))


def said(rule, sample: sources.Sample) -> str:
    return rule.tokenizer.decode(rule(sample).tokens, skip_special=False)


def frames_of(folder, count: int = 7) -> pathlib.Path:
    """A folder of frames, each of another brightness."""
    folder.mkdir()
    for number in range(1, count + 1):
        Image.new("RGB", (64, 32), (30 * number, 0, 0)).save(folder / f"{number:08d}.jpg")
    return folder
