"""Items of a message that show something: videos, frame folders and images.

    {"type": "video_url", "video_url": {"url": "a.mp4", "image_wh": [w, h],
        "origin_video_length": frames, "origin_fps": rate,                of the file, or
        "processed_video_length": frames, "processed_fps": rate,          of frames chosen before
        "frames_timestamp": [seconds of each frame],
        "span": [start, end], "fps": rate}}                               what is shown of it
    {"type": "image_url", "image_url": {"url": "a.jpg", "image_wh": [w, h]}}

A url is relative to the media root, and never leads out of it. A video may be a folder of frames,
00000001.jpg and so on.
"""

import pathlib
from collections.abc import Mapping

from data_pipelines.annotation_error import ADDRESS, MISSING, SPAN, TYPE, UNKNOWN, AnnotationError
from data_pipelines.formats.columns import is_number
from data_pipelines.media import ImageRef, VideoRef
from data_pipelines.media_error import MediaError
from data_pipelines.prepared import shards
from data_pipelines.video import frames
from data_pipelines.video import info as infos
from data_pipelines.video.info import VideoInfo

_DESCRIBED = ("image_wh", "origin_video_length", "origin_fps")
_PROCESSED = ("processed_video_length", "processed_fps")
# `detail` and `video_length` are of the released format too; there they mean nothing.
_VIDEO = {
    "url",
    *_DESCRIBED,
    *_PROCESSED,
    "frames_timestamp",
    "span",
    "fps",
    "detail",
    "video_length",
}
_IMAGE = {"url", "image_wh", "detail"}


def video(item: dict, where: str, root: pathlib.Path, stored: Mapping[str, str]) -> VideoRef:
    """A video of a message.

    Args:
      item: as above.
      where: file and line, for messages.
      root: of the media.
      stored: addresses of media that came with the record, by url.

    Raises:
      AnnotationError: it is not of the form above, or a span of it is outside of the video.
    """
    given = _given(item, "video_url", _VIDEO, where)
    path = _address(given["url"], where, root, stored)
    span, fps = _span(given.get("span"), where), _positive(given, "fps", where)
    processed = _positive(given, "processed_fps", where)
    if (processed is None) != (given.get("processed_video_length") is None):
        raise AnnotationError(f"{where}: {' and '.join(_PROCESSED)} go together", MISSING)
    keys = ("image_wh", *_PROCESSED) if processed else _DESCRIBED
    info = None
    if all(given.get(key) is not None for key in keys):
        try:
            width, height = _sides(given["image_wh"])
            length, rate = (given[key] for key in keys[1:])
            info = VideoInfo(int(length), float(rate), width, height)
        except (TypeError, ValueError, OverflowError) as error:
            raise AnnotationError(
                f"{where}: {', '.join(keys)} do not describe a video ({error})", TYPE
            ) from error
    times = _times(given.get("frames_timestamp"), info, where)
    if span and times:
        raise AnnotationError(f"{where}: a video with frames_timestamp cannot show a span", UNKNOWN)
    if span and info:
        try:
            frames.frame_indices(info, frames.FrameRule(1, 1, 1), span)
        except MediaError as error:
            raise AnnotationError(f"{where}: {path}: {error}", SPAN) from error
    said = processed or _positive(given, "origin_fps", where)
    return VideoRef(path, info, span, fps, processed, times, said)


def image(item: dict, where: str, root: pathlib.Path, stored: Mapping[str, str]) -> ImageRef:
    """An image of a message; arguments and errors as those of `video`."""
    given = _given(item, "image_url", _IMAGE, where)
    path = _address(given["url"], where, root, stored)
    if given.get("image_wh") is None:
        return ImageRef(path, None)
    try:
        return ImageRef(path, infos.still(*_sides(given["image_wh"])))
    except (TypeError, ValueError, OverflowError) as error:
        raise AnnotationError(
            f"{where}: image_wh does not describe {path} ({error})", TYPE
        ) from error


def _given(item: dict, kind: str, known: set[str], where: str) -> dict:
    given = item.get(kind)
    name = "a video" if kind == "video_url" else "an image"
    if set(item) - {"type", kind} or not isinstance(given, dict):
        raise AnnotationError(
            f'{where}: {name} item needs {{"{kind}": {{"url": ...}}}} and nothing beside, got'
            f" {str(item)[:200]}",
            TYPE if kind in item else MISSING,
        )
    if not isinstance(given.get("url"), str):
        raise AnnotationError(
            f"{where}: {name} item needs a url, a path under the media_root, got {str(item)[:200]}",
            TYPE if "url" in given else MISSING,
        )
    unknown = sorted(set(given) - known)
    if unknown:
        raise AnnotationError(
            f"{where}: {name} item needs no {', '.join(unknown)}; known are"
            f" {', '.join(sorted(known))}",
            UNKNOWN,
        )
    return given


def _sides(value) -> tuple[int, int]:
    """Width and height, which the release also writes as [[w, h]]."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]
    width, height = value
    return int(width), int(height)


def _span(value, where: str) -> tuple[float, float] | None:
    """(start, end) in seconds, or None if no span is given."""
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


def _positive(given: dict, key: str, where: str) -> float | None:
    value = given.get(key)
    if value is None:
        return None
    if not is_number(value) or value <= 0:
        raise AnnotationError(
            f"{where}: the {key} {value!r} of a video must be a positive number", TYPE
        )
    return float(value)


def _times(value, info: VideoInfo | None, where: str) -> tuple[float, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(is_number(second) for second in value):
        raise AnnotationError(f"{where}: frames_timestamp must be a list of seconds", TYPE)
    if value != sorted(value):
        raise AnnotationError(f"{where}: the seconds of frames_timestamp go back")
    if info and len(value) != info.num_frames:
        raise AnnotationError(
            f"{where}: {len(value)} seconds in frames_timestamp for {info.num_frames} frames"
        )
    return tuple(float(second) for second in value)


def _address(url: str, where: str, root: pathlib.Path, stored: Mapping[str, str]) -> str:
    """Where `url` lies under `root`; remote addresses and ways out of the folder are refused."""
    if url in stored:
        return stored[url]
    if "://" in url or url.startswith("data:"):
        raise AnnotationError(
            f"{where}: {url[:80]} is not a local file; copy the media under media_root", ADDRESS
        )
    path = root / url
    ways_out = pathlib.PurePosixPath(url).is_absolute() or ".." in pathlib.PurePosixPath(url).parts
    # A local path may also lead out by a link; what is remote, no `pathlib.Path`, has none.
    file = root / shards.file_of(url)
    if ways_out or (
        isinstance(root, pathlib.Path) and not file.resolve().is_relative_to(root.resolve())
    ):
        raise AnnotationError(f"{where}: {url} leads out of the media_root {root}", ADDRESS)
    return str(path)
