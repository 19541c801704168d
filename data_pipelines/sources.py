"""Annotations: mixture files and JSON lines, a subset of the message format of InternVideo3.

A mixture file names data sets:

    {"name": {"annotation": "x.jsonl or a folder of them", "media_root": "DIR",
              "sample_ratio": 1.0}, ...}

An annotation may also be the folder of a data set that `ivx data prepare` wrote.
Relative paths start at the folder of the mixture file. A line is one sample:

    {"id": ..., "messages": [
        {"role": "user", "content": [
            {"type": "video_url", "video_url": {"url": "a.mp4", "image_wh": [w, h],
                                                "origin_video_length": frames, "origin_fps": rate}},
            {"type": "text", "text": "<VIDEO_CONTEXT>What happens?"}]},
        {"role": "assistant", "content": "..."}]}

An image is an item of its own, {"type": "image_url", "image_url": {"url": "a.jpg", "image_wh":
[w, h]}}, and <IMG_CONTEXT> in the text; videos and images may be mixed, several of each. The first
placeholder of a kind stands for the first item of that kind, and so on.

A video item may show a part of its file, at a rate of its own: `"span": [start, end]` in seconds
and `"fps": rate` beside the url. A sample may offer `tools` (schemas), an assistant's message hold
`tool_calls` ([{"name", "arguments"}]), and messages of the role `tool` give what these return,
videos and images included.
`image_wh`, `origin_video_length` and `origin_fps` let a sample be packed before its files are
opened; without them a file is probed. `truths`, if present, tell an evaluation what
to expect. Pretraining turns, frame lists and thinking fields are refused, not ignored.
"""

import dataclasses
import json
import math
import pathlib
import re

from data_pipelines.media import ImageRef, VideoRef
from data_pipelines.video import info as infos
from data_pipelines.video.info import VideoInfo
from ivx.text import tool_calls


class AnnotationError(ValueError):
    """A mixture or annotation that cannot be used; the message names file, line and cause."""


@dataclasses.dataclass(frozen=True)
class DataSet:
    """One entry of a mixture; `sample_ratio` is how often an epoch takes each of its samples."""

    name: str
    annotations: tuple[pathlib.Path, ...]
    media_root: pathlib.Path
    sample_ratio: float


@dataclasses.dataclass(frozen=True)
class Sample:
    """One conversation.

    `truths` holds for each answer what an evaluation needs (format, answer, options, span);
    `tools` the schemas of the tools on offer.
    """

    id: str
    messages: tuple[dict, ...]
    videos: tuple[VideoRef, ...]
    truths: tuple[dict, ...] = ()
    tools: tuple[dict, ...] = ()
    images: tuple[ImageRef, ...] = ()


_DATA_SET_KEYS = {"annotation", "media_root", "sample_ratio"}
_SAMPLE_KEYS = {"id", "messages", "truths", "tools"}
_MESSAGE_KEYS = {"role", "content", "loss", "name", "meta", "tool_calls"}


def read_mixture(path: str | pathlib.Path, names: tuple[str, ...]) -> list[DataSet]:
    """Reads the named data sets of a mixture file.

    Raises:
      AnnotationError: no such file, a data set that is not in it, or an entry that is not as above.
    """
    path = pathlib.Path(path)
    entries = _entries(path)
    missing = [name for name in names if name not in entries]
    if missing:
        raise AnnotationError(
            f"{path}: no data set {', '.join(missing)}; there are {', '.join(entries)}"
        )
    return [_data_set(path, name, entries[name]) for name in names]


def data_set_names(path: str | pathlib.Path) -> list[str]:
    """Names of the data sets of a mixture file.

    Raises:
      AnnotationError: there is no such file, or it is no mixture.
    """
    return list(_entries(pathlib.Path(path)))


def _entries(path: pathlib.Path) -> dict:
    if not path.is_file():
        raise AnnotationError(
            f"no mixture file at {path}; `ivx data synthesize --out={path.parent}` makes one"
        )
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(entries, dict):
        raise AnnotationError(f"{path}: expected an object of data sets by name")
    return entries


def _data_set(mixture: pathlib.Path, name: str, entry: dict) -> DataSet:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise AnnotationError(
            f"{mixture}: {name!r} cannot name a data set; use letters, digits, . _ -"
        )
    if not isinstance(entry, dict) or "annotation" not in entry or set(entry) - _DATA_SET_KEYS:
        raise AnnotationError(
            f"{mixture}: data set {name} is {entry!r}; expected annotation and, if wanted,"
            " media_root and sample_ratio"
        )
    annotation, root = entry["annotation"], entry.get("media_root", ".")
    if not isinstance(annotation, str) or not isinstance(root, str):
        raise AnnotationError(f"{mixture}: annotation and media_root of {name} must be paths")
    ratio = entry.get("sample_ratio", 1.0)
    if not isinstance(ratio, (int, float)) or not math.isfinite(ratio) or ratio <= 0:
        raise AnnotationError(
            f"{mixture}: data set {name} has sample_ratio {ratio!r}; it must be a positive number"
        )
    place = mixture.parent / annotation
    if (place / "manifest.json").is_file():
        # Written by `ivx data prepare`; see `data_pipelines.prepared`.
        return DataSet(name, (place,), place.parent, float(ratio))
    files = tuple(sorted(place.rglob("*.jsonl"))) if place.is_dir() else (place,)
    if not files or not all(file.is_file() for file in files):
        raise AnnotationError(f"{mixture}: data set {name} has no annotation at {place}")
    return DataSet(name, files, mixture.parent / root, float(ratio))


def read_samples(data_set: DataSet) -> list[Sample]:
    """Reads every line of a data set.

    Raises:
      AnnotationError: a line that is not a sample.
    """
    samples = []
    for file in data_set.annotations:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise AnnotationError(f"{file}: not UTF-8 text ({error})") from error
        for number, line in enumerate(lines, 1):
            if line.strip():
                samples.append(_parse(line, f"{file}:{number}", data_set.media_root))
    if not samples:
        raise AnnotationError(f"data set {data_set.name} holds no sample")
    return samples


def _parse(line: str, where: str, media_root: pathlib.Path) -> Sample:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise AnnotationError(f"{where}: not valid JSON ({error})") from error
    return sample(record, where, media_root)


def sample(record: dict, where: str, media_root: pathlib.Path) -> Sample:
    """A sample from its annotation; `where` names its place for messages.

    Raises:
      AnnotationError: it is not of the form above.
    """
    messages = record.get("messages") if isinstance(record, dict) else None
    if not isinstance(messages, list) or not all(isinstance(part, dict) for part in messages):
        raise AnnotationError(f"{where}: expected an object with a list of messages")
    for message in messages:
        if set(message) - _MESSAGE_KEYS or message.get("loss") not in (None, True, False):
            raise AnnotationError(
                f"{where}: a message with the keys {sorted(message)}; expected"
                f" {', '.join(sorted(_MESSAGE_KEYS))}, loss being true or false"
            )
        if "tool_calls" in message and message.get("role") != "assistant":
            raise AnnotationError(
                f"{where}: tool_calls in a message of the role {message.get('role')!r};"
                " only an assistant calls"
            )
    try:
        tool_calls.check_tools(record.get("tools", []))
        for message in messages:
            tool_calls.check_calls(message.get("tool_calls", []))
    except tool_calls.ToolCallError as error:
        raise AnnotationError(f"{where}: {error}") from error
    truths = record.get("truths", [])
    if not isinstance(truths, list) or not all(isinstance(truth, dict) for truth in truths):
        raise AnnotationError(f"{where}: truths must be a list of objects, not {truths!r}")
    unknown = set(record) - _SAMPLE_KEYS
    if unknown:
        raise AnnotationError(
            f"{where}: unknown keys {sorted(unknown)}; allowed are {sorted(_SAMPLE_KEYS)}"
        )
    items = [
        item
        for message in messages
        if isinstance(message.get("content"), list)
        for item in message["content"]
        if isinstance(item, dict)
    ]
    videos = [_video(item, where, media_root) for item in items if item.get("type") == "video_url"]
    images = [_image(item, where, media_root) for item in items if item.get("type") == "image_url"]
    return Sample(
        str(record.get("id", where)),
        tuple(messages),
        tuple(videos),
        tuple(truths),
        tuple(record.get("tools", [])),
        tuple(images),
    )


def _video(item: dict, where: str, media_root: pathlib.Path) -> VideoRef:
    video = item.get("video_url")
    if not isinstance(video, dict) or not isinstance(video.get("url"), str):
        raise AnnotationError(
            f'{where}: a video item needs {{"video_url": {{"url": ...}}}}, got {item!r}'
        )
    path = _inside(media_root, video["url"], where)
    span, fps = _span(video.get("span"), where), _fps(video.get("fps"), where)
    keys = ("image_wh", "origin_video_length", "origin_fps")
    if any(video.get(key) is None for key in keys):
        return VideoRef(path, None, span, fps)
    try:
        width, height = video["image_wh"]
        info = VideoInfo(
            int(video["origin_video_length"]), float(video["origin_fps"]), int(width), int(height)
        )
    except (TypeError, ValueError) as error:
        raise AnnotationError(
            f"{where}: {', '.join(keys)} do not describe a video ({error})"
        ) from error
    return VideoRef(path, info, span, fps)


def _image(item: dict, where: str, media_root: pathlib.Path) -> ImageRef:
    image = item.get("image_url")
    if (
        not isinstance(image, dict)
        or not isinstance(image.get("url"), str)
        or set(image) - {"url", "image_wh"}
    ):
        raise AnnotationError(
            f'{where}: an image item needs {{"image_url": {{"url": ..., "image_wh": [w, h]}}}},'
            f" image_wh if it is known, got {item!r}"
        )
    path = _inside(media_root, image["url"], where)
    if image.get("image_wh") is None:
        return ImageRef(path, None)
    try:
        width, height = image["image_wh"]
        return ImageRef(path, infos.still(int(width), int(height)))
    except (TypeError, ValueError, OverflowError) as error:
        raise AnnotationError(f"{where}: image_wh does not describe {path} ({error})") from error


def _span(value, where: str) -> tuple[float, float] | None:
    """(start, end) in seconds, or None if no span is given."""
    if value is None:
        return None
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(_is_number(second) for second in value)
        or not 0 <= value[0] < value[1]
    ):
        raise AnnotationError(
            f"{where}: the span {value!r} of a video must be [start, end] in seconds, start before"
            " end"
        )
    return float(value[0]), float(value[1])


def _fps(value, where: str) -> float | None:
    """Frames a second, or None if the frame rule says."""
    if value is None:
        return None
    if not _is_number(value) or value <= 0:
        raise AnnotationError(f"{where}: the fps {value!r} of a video must be a positive number")
    return float(value)


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _inside(root: pathlib.Path, url: str, where: str) -> str:
    """The path of `url` under `root`; remote addresses and ways out of the folder are refused."""
    if "://" in url or url.startswith("data:"):
        raise AnnotationError(
            f"{where}: {url[:80]} is not a local file; copy the media under media_root"
        )
    path = root / url
    if pathlib.Path(url).is_absolute() or not path.resolve().is_relative_to(root.resolve()):
        raise AnnotationError(f"{where}: {url} leads out of the media_root {root}")
    return str(path)
