"""Media items of a message: videos, folders of frames, and images.

    {"type": "video_url", "video_url": {"url": "a.mp4", "image_wh": [w, h],
        "origin_video_length": frames, "origin_fps": rate,                of the file, or
        "processed_video_length": frames, "processed_fps": rate,          of extracted frames
        "frames_timestamp": [seconds of each frame],
        "span": [start, end], "fps": rate}}                               the part that is shown
    {"type": "image_url", "image_url": {"url": "a.jpg", "image_wh": [w, h]}}

A url is a path inside the media root, relative to it or absolute, without hidden parts. A video may
be a folder of frames, 00000001.jpg and so on.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from etils import epath

from data_pipelines.annotation_error import ADDRESS, MISSING, SPAN, TYPE, UNKNOWN, AnnotationError
from data_pipelines.formats.columns import is_number, is_seconds, is_span
from data_pipelines.media import REMOTE, ImageRef, VideoRef
from data_pipelines.media_error import MediaError
from data_pipelines.media_files import is_hidden
from data_pipelines.prepared import shards
from data_pipelines.video import frames
from data_pipelines.video import info as infos
from data_pipelines.video.info import VideoInfo

_KINDS = ("processed", "origin")
_ORIGINAL = ("origin_video_length", "origin_fps")
_PROCESSED = ("processed_video_length", "processed_fps")
# `detail` and `video_length` occur in the released format too, where they have no effect.
_VIDEO_KEYS = {
    "url",
    "image_wh",
    *_ORIGINAL,
    *_PROCESSED,
    "frames_timestamp",
    "span",
    "fps",
    "detail",
    "video_length",
}
_IMAGE_KEYS = {"url", "image_wh", "detail"}
# No real file is beyond these. Within them, frame numbers and times are far from overflow.
_MOST_FRAMES, _LONGEST_SIDE = 10**9, 10**6
_SLOWEST, _FASTEST = 1e-6, 1e6


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
    span, fps = _span(fields.get("span"), where), _rate(fields, "fps", where)
    processed_fps, origin_fps = (_rate(fields, f"{kind}_fps", where) for kind in _KINDS)
    lengths = [_length(fields, f"{kind}_video_length", where) for kind in _KINDS]
    sides = _sides(fields.get("image_wh"), where)
    if (processed_fps is None) != (fields.get("processed_video_length") is None):
        raise AnnotationError(f"{where}: {' and '.join(_PROCESSED)} go together", MISSING)
    length, rate = (lengths[0], processed_fps) if processed_fps else (lengths[1], origin_fps)
    info = VideoInfo(length, rate, *sides) if sides and length and rate else None
    times = _times(fields.get("frames_timestamp"), info, where)
    if span and times:
        raise AnnotationError(f"{where}: a video with frames_timestamp cannot show a span", UNKNOWN)
    if span and info:
        try:
            frames.frame_indices(info, frames.FrameRule(1.0, 1, 1), span)
        except MediaError as error:
            raise AnnotationError(f"{where}: {path}: {error}", SPAN) from error
    return VideoRef(path, info, span, fps, processed_fps, times, processed_fps or origin_fps)


def image(
    item: dict, where: str, root: pathlib.Path | epath.Path, stored: Mapping[str, str]
) -> ImageRef:
    """Parses an image item; arguments and errors are those of `video`."""
    fields = _fields(item, "image_url", _IMAGE_KEYS, where)
    path = _address(fields["url"], where, root, stored)
    sides = _sides(fields.get("image_wh"), where)
    return ImageRef(path, infos.still(*sides) if sides else None)


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


def _sides(value: Any, where: str) -> tuple[int, int] | None:
    """Width and height, which the release also writes as [[w, h]]; None without them."""
    sides = value[0] if isinstance(value, list) and len(value) == 1 else value
    if value is None:
        return None
    if (
        not isinstance(sides, list)
        or len(sides) != 2
        or not all(_is_count(side, _LONGEST_SIDE) for side in sides)
    ):
        raise AnnotationError(
            f"{where}: the image_wh {str(value)[:80]} must be [width, height], whole numbers from 1"
            f" to {_LONGEST_SIDE:,}",
            TYPE,
        )
    return int(sides[0]), int(sides[1])


def _length(fields: dict, key: str, where: str) -> int | None:
    value = fields.get(key)
    if value is not None and not _is_count(value, _MOST_FRAMES):
        raise AnnotationError(
            f"{where}: the {key} {repr(value)[:80]} of a video must be a whole number from 1 to"
            f" {_MOST_FRAMES:,}",
            TYPE,
        )
    return None if value is None else int(value)


def _is_count(value: Any, most: int) -> bool:
    # Tables in which a column has nulls store its whole numbers as floats.
    return is_number(value) and 1 <= value <= most and value == int(value)


def _span(value: Any, where: str) -> tuple[float, float] | None:
    """(start, end) in seconds; None without a span."""
    if value is None:
        return None
    if not is_span(value) or not 0 <= value[0] < value[1]:
        raise AnnotationError(
            f"{where}: the span {value!r} of a video must be [start, end] in seconds, start before"
            " end, at most 1e9"
        )
    return float(value[0]), float(value[1])


def _rate(fields: dict, key: str, where: str) -> float | None:
    value = fields.get(key)
    if value is None:
        return None
    if not is_number(value) or not _SLOWEST <= value <= _FASTEST:
        raise AnnotationError(
            f"{where}: the {key} {repr(value)[:80]} of a video must be a number from {_SLOWEST:g}"
            f" to {_FASTEST:g}",
            TYPE,
        )
    return float(value)


def _times(value: Any, info: VideoInfo | None, where: str) -> tuple[float, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(map(is_seconds, value)):
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
    path = _inside(url, root)
    if "://" in path or path.startswith("data:"):
        raise AnnotationError(
            f"{where}: {url[:80]} is not a local file; copy the media under media_root", ADDRESS
        )
    parts = pathlib.PurePosixPath(path).parts
    try:
        # A local path may also leave through a symbolic link; a remote root has no links.
        stays = not isinstance(root, pathlib.Path) or (
            (root / shards.file_of(path)).resolve().is_relative_to(root.resolve())
        )
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links, or an impossible name
        raise AnnotationError(f"{where}: {url} cannot be followed ({error})", ADDRESS) from error
    if not stays or ".." in parts or (parts[:1] == ("/",) and not isinstance(root, pathlib.Path)):
        raise AnnotationError(f"{where}: {url} leads out of the media_root {root}", ADDRESS)
    if is_hidden(parts[-1] if path.startswith("/") else path):
        raise AnnotationError(
            f"{where}: {url} is hidden, since a part of it begins with a dot; hidden files are"
            " never data",
            ADDRESS,
        )
    return str(root / path)


def _inside(url: str, root: pathlib.Path | epath.Path) -> str:
    """An absolute `url` relative to `root`, if it begins with it; any other url unchanged."""
    spellings = [str(root)]
    if isinstance(root, pathlib.Path):
        spellings += [os.path.abspath(root), os.path.realpath(root)]
    for prefix in spellings:
        if prefix.startswith(("/", *REMOTE)) and url.startswith(prefix.rstrip("/") + "/"):
            return url.removeprefix(prefix.rstrip("/")).lstrip("/")
    return url
