"""Media items of a message: videos, folders of frames, and images.

    {"type": "video_url", "video_url": {"url": "a.mp4", "image_wh": [w, h],
        "origin_video_length": frames, "origin_fps": rate,                of the file, or
        "processed_video_length": frames, "processed_fps": rate,          of extracted frames
        "frames_timestamp": [seconds of each frame],
        "span": [start, end], "fps": rate}}                               the part that is shown
    {"type": "image_url", "image_url": {"url": "a.jpg", "image_wh": [w, h]}}

A url is relative to the media root and must stay inside it. A video may be a folder of frames,
00000001.jpg and so on.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from etils import epath

from data_pipelines.annotation_error import ADDRESS, MISSING, SPAN, TYPE, UNKNOWN, AnnotationError
from data_pipelines.formats.columns import is_number
from data_pipelines.media import ImageRef, VideoRef
from data_pipelines.media_error import MediaError
from data_pipelines.prepared import shards
from data_pipelines.video import frames
from data_pipelines.video import info as infos
from data_pipelines.video.info import VideoInfo

_ORIGINAL = ("image_wh", "origin_video_length", "origin_fps")
_PROCESSED = ("processed_video_length", "processed_fps")
# `detail` and `video_length` occur in the released format too, where they have no effect.
_VIDEO_KEYS = {
    "url",
    *_ORIGINAL,
    *_PROCESSED,
    "frames_timestamp",
    "span",
    "fps",
    "detail",
    "video_length",
}
_IMAGE_KEYS = {"url", "image_wh", "detail"}


def video(
    item: dict, where: str, root: pathlib.Path | epath.Path, stored: Mapping[str, str]
) -> VideoRef:
    """Parses a video item.

    Args:
      item: as above.
      where: file:line of the annotation, for messages.
      root: folder of the media.
      stored: addresses of media that are stored with the annotation, by url.

    Raises:
      AnnotationError: the item is malformed, or its span is outside the video.
    """
    fields = _fields(item, "video_url", _VIDEO_KEYS, where)
    path = _address(fields["url"], where, root, stored)
    span, fps = _span(fields.get("span"), where), _positive(fields, "fps", where)
    processed_fps = _positive(fields, "processed_fps", where)
    if (processed_fps is None) != (fields.get("processed_video_length") is None):
        raise AnnotationError(f"{where}: {' and '.join(_PROCESSED)} go together", MISSING)
    keys = ("image_wh", *_PROCESSED) if processed_fps else _ORIGINAL
    info = None
    if all(fields.get(key) is not None for key in keys):
        try:
            width, height = _sides(fields["image_wh"])
            length, rate = (fields[key] for key in keys[1:])
            info = VideoInfo(int(length), float(rate), width, height)
        except (TypeError, ValueError, OverflowError) as error:
            raise AnnotationError(
                f"{where}: {', '.join(keys)} do not describe a video ({error})", TYPE
            ) from error
    times = _times(fields.get("frames_timestamp"), info, where)
    if span and times:
        raise AnnotationError(f"{where}: a video with frames_timestamp cannot show a span", UNKNOWN)
    if span and info:
        try:
            frames.frame_indices(info, frames.FrameRule(1.0, 1, 1), span)
        except MediaError as error:
            raise AnnotationError(f"{where}: {path}: {error}", SPAN) from error
    folder_fps = processed_fps or _positive(fields, "origin_fps", where)
    return VideoRef(path, info, span, fps, processed_fps, times, folder_fps)


def image(
    item: dict, where: str, root: pathlib.Path | epath.Path, stored: Mapping[str, str]
) -> ImageRef:
    """Parses an image item; arguments and errors are those of `video`."""
    fields = _fields(item, "image_url", _IMAGE_KEYS, where)
    path = _address(fields["url"], where, root, stored)
    if fields.get("image_wh") is None:
        return ImageRef(path, None)
    try:
        return ImageRef(path, infos.still(*_sides(fields["image_wh"])))
    except (TypeError, ValueError, OverflowError) as error:
        raise AnnotationError(
            f"{where}: image_wh does not describe {path} ({error})", TYPE
        ) from error


def _fields(item: dict, kind: str, known: set[str], where: str) -> dict:
    """The object under the key `kind`, with a url and no unknown keys."""
    fields = item.get(kind)
    name = "a video" if kind == "video_url" else "an image"
    if set(item) - {"type", kind} or not isinstance(fields, dict):
        raise AnnotationError(
            f'{where}: {name} item needs {{"{kind}": {{"url": ...}}}} and no other key, got'
            f" {str(item)[:200]}",
            TYPE if kind in item else MISSING,
        )
    if not isinstance(fields.get("url"), str):
        raise AnnotationError(
            f"{where}: {name} item needs a url, a path under the media_root, got {str(item)[:200]}",
            TYPE if "url" in fields else MISSING,
        )
    unknown = sorted(set(fields) - known)
    if unknown:
        raise AnnotationError(
            f"{where}: {name} item has unknown keys {', '.join(unknown)}; known are"
            f" {', '.join(sorted(known))}",
            UNKNOWN,
        )
    return fields


def _sides(value: Any) -> tuple[int, int]:
    """Width and height, which the release also writes as [[w, h]]."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]
    width, height = value
    return int(width), int(height)


def _span(value: Any, where: str) -> tuple[float, float] | None:
    """(start, end) in seconds; None without a span."""
    if value is None:
        return None
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(is_number(second) for second in value)
        or not 0 <= value[0] < value[1]
    ):
        raise AnnotationError(
            f"{where}: the span {value!r} of a video must be [start, end] in seconds, start before"
            " end"
        )
    return float(value[0]), float(value[1])


def _positive(fields: dict, key: str, where: str) -> float | None:
    value = fields.get(key)
    if value is None:
        return None
    if not is_number(value) or value <= 0:
        raise AnnotationError(
            f"{where}: the {key} {value!r} of a video must be a positive number", TYPE
        )
    return float(value)


def _times(value: Any, info: VideoInfo | None, where: str) -> tuple[float, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(is_number(second) for second in value):
        raise AnnotationError(f"{where}: frames_timestamp must be a list of seconds", TYPE)
    if value != sorted(value):
        raise AnnotationError(f"{where}: frames_timestamp must not decrease")
    if info and len(value) != info.num_frames:
        raise AnnotationError(
            f"{where}: {len(value)} seconds in frames_timestamp for {info.num_frames} frames"
        )
    return tuple(float(second) for second in value)


def _address(
    url: str, where: str, root: pathlib.Path | epath.Path, stored: Mapping[str, str]
) -> str:
    """The address of `url` under `root`; rejects other addresses and paths that leave `root`."""
    if url in stored:
        return stored[url]
    if "://" in url or url.startswith("data:"):
        raise AnnotationError(
            f"{where}: {url[:80]} is not a local file; copy the media under media_root", ADDRESS
        )
    path = root / url
    leaves = pathlib.PurePosixPath(url).is_absolute() or ".." in pathlib.PurePosixPath(url).parts
    # A local path may also leave through a symbolic link. A remote root, which is not a
    # `pathlib.Path`, has no links.
    file = root / shards.file_of(url)
    if leaves or (
        isinstance(root, pathlib.Path) and not file.resolve().is_relative_to(root.resolve())
    ):
        raise AnnotationError(f"{where}: {url} leads out of the media_root {root}", ADDRESS)
    return str(path)
