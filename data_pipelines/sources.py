"""Annotations: mixture files and JSON lines, in the message format of InternVideo3.

A mixture file names data sets:

    {"name": {"annotation": "x.jsonl or a folder of them", "media_root": "DIR",
              "sample_ratio": 1.0}, ...}

Relative paths start at the folder of the mixture file. A line is one sample:

    {"id": ..., "messages": [
        {"role": "user", "content": [
            {"type": "video_url", "video_url": {"url": "a.mp4", "image_wh": [w, h],
                                                "origin_video_length": frames, "origin_fps": rate}},
            {"type": "text", "text": "<VIDEO_CONTEXT>What happens?"}]},
        {"role": "assistant", "content": "..."}]}

`image_wh`, `origin_video_length` and `origin_fps` let a sample be packed before its video is
opened; without them the file is probed. `truths`, if present, tell an evaluation what
to expect.
"""

import dataclasses
import json
import pathlib

from data_pipelines.video import decode
from data_pipelines.video.info import VideoInfo


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
class VideoRef:
    """A video of a sample; `info` is None where the annotation does not describe it."""

    path: str
    info: VideoInfo | None

    def resolved(self) -> VideoInfo:
        """What the annotation says, or else the file itself.

        Raises:
          VideoError: the file has to be probed and cannot be.
        """
        return self.info or decode.probe(self.path)


@dataclasses.dataclass(frozen=True)
class Sample:
    """One conversation.

    `truths` holds for each answer what an evaluation needs (format, answer, options, span).
    """

    id: str
    messages: tuple[dict, ...]
    videos: tuple[VideoRef, ...]
    truths: tuple[dict, ...] = ()


_DATA_SET_KEYS = {"annotation", "media_root", "sample_ratio"}
_SAMPLE_KEYS = {"id", "messages", "truths"}


def read_mixture(path: str | pathlib.Path, names: tuple[str, ...]) -> list[DataSet]:
    """Reads the named data sets of a mixture file.

    Raises:
      AnnotationError: no such file, a data set that is not in it, or an entry that is not as above.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise AnnotationError(
            f"no mixture file at {path}; `ivx data synthesize --out={path.parent}` makes one"
        )
    try:
        entries = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise AnnotationError(f"{path}: not valid JSON ({error})") from error
    missing = [name for name in names if name not in entries]
    if missing:
        raise AnnotationError(
            f"{path}: no data set {', '.join(missing)}; there are {', '.join(entries)}"
        )
    return [_data_set(path, name, entries[name]) for name in names]


def _data_set(mixture: pathlib.Path, name: str, entry: dict) -> DataSet:
    unknown = set(entry) - _DATA_SET_KEYS
    if unknown or "annotation" not in entry:
        raise AnnotationError(
            f"{mixture}: data set {name} has the keys {sorted(entry)};"
            " expected annotation and, if wanted, media_root and sample_ratio"
        )
    ratio = entry.get("sample_ratio", 1.0)
    if not isinstance(ratio, (int, float)) or ratio <= 0:
        raise AnnotationError(
            f"{mixture}: data set {name} has sample_ratio {ratio!r}; it must be positive"
        )
    annotation = mixture.parent / entry["annotation"]
    files = tuple(sorted(annotation.rglob("*.jsonl"))) if annotation.is_dir() else (annotation,)
    absent = [file for file in files if not file.is_file()]
    if absent or not files:
        raise AnnotationError(f"{mixture}: data set {name} has no annotation at {annotation}")
    return DataSet(name, files, mixture.parent / entry.get("media_root", "."), float(ratio))


def read_samples(data_set: DataSet) -> list[Sample]:
    """Reads every line of a data set.

    Raises:
      AnnotationError: a line that is not a sample.
    """
    samples = []
    for file in data_set.annotations:
        with file.open(encoding="utf-8") as lines:
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
    if not isinstance(record, dict) or not isinstance(record.get("messages"), list):
        raise AnnotationError(f"{where}: expected an object with a list of messages")
    unknown = set(record) - _SAMPLE_KEYS
    if unknown:
        raise AnnotationError(
            f"{where}: unknown keys {sorted(unknown)}; allowed are {sorted(_SAMPLE_KEYS)}"
        )
    videos = [
        _video(item, where, media_root)
        for message in record["messages"]
        if isinstance(message, dict) and isinstance(message.get("content"), list)
        for item in message["content"]
        if isinstance(item, dict) and item.get("type") == "video_url"
    ]
    return Sample(
        str(record.get("id", where)),
        tuple(record["messages"]),
        tuple(videos),
        tuple(record.get("truths", ())),
    )


def _video(item: dict, where: str, media_root: pathlib.Path) -> VideoRef:
    video = item.get("video_url")
    if not isinstance(video, dict) or not isinstance(video.get("url"), str):
        raise AnnotationError(
            f'{where}: a video item needs {{"video_url": {{"url": ...}}}}, got {item!r}'
        )
    path = _inside(media_root, video["url"], where)
    keys = ("image_wh", "origin_video_length", "origin_fps")
    if any(video.get(key) is None for key in keys):
        return VideoRef(path, None)
    try:
        width, height = video["image_wh"]
        info = VideoInfo(
            int(video["origin_video_length"]), float(video["origin_fps"]), int(width), int(height)
        )
    except (TypeError, ValueError) as error:
        raise AnnotationError(
            f"{where}: {', '.join(keys)} do not describe a video ({error})"
        ) from error
    return VideoRef(path, info)


def _inside(root: pathlib.Path, url: str, where: str) -> str:
    """The path of `url` under `root`; remote addresses and ways out of the folder are refused."""
    if "://" in url:
        raise AnnotationError(
            f"{where}: {url} is not a local file; copy the media under media_root"
        )
    path = root / url
    if pathlib.Path(url).is_absolute() or not path.resolve().is_relative_to(root.resolve()):
        raise AnnotationError(f"{where}: {url} leads out of the media_root {root}")
    return str(path)
