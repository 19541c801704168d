"""Names of media, and local files as the file system shows them: hidden, missing, not readable."""

import contextlib
import os
import pathlib
import stat
from collections.abc import Iterator

from data_pipelines import disk_full
from data_pipelines.media_error import MediaError

# Suffixes of video files; remote file systems are not asked whether such a name is a folder.
VIDEO_SUFFIXES = (
    ".mp4",
    ".avi",
    ".mov",
    ".webm",
    ".flv",
    ".wmv",
    ".mkv",
    ".rmvb",
    ".ts",
    ".m4v",
    ".gif",
    ".mpg",
    ".mpeg",
)


def is_hidden(path: str | pathlib.PurePath) -> bool:
    """Whether a part of the path begins with a dot, as copies of editors and of macOS do."""
    return any(
        part.startswith(".") and part not in (".", "..") for part in pathlib.PurePath(path).parts
    )


def with_suffix(name: str, suffix: str) -> str:
    """The name of a video file: `name` itself if it has `suffix` or that of another video."""
    lower = name.lower()
    named = suffix and lower.endswith(suffix.lower())
    return name if named or lower.endswith(VIDEO_SUFFIXES) else name + suffix


def is_folder(path: str | pathlib.Path) -> bool:
    """Whether a local folder exists and can be reached."""
    return os.path.isdir(path)


def check(path: str | pathlib.Path) -> None:
    """Checks that a local file is there and not empty, before a library opens it.

    Raises:
      MediaError: it is missing, empty, or cannot be reached.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MediaError(f"{path}: no such file", "missing") from error
    except (OSError, ValueError) as error:  # ValueError: no file system can hold such a name
        reason = getattr(error, "strerror", None) or error
        raise MediaError(f"{path}: cannot be opened ({reason})", "unreadable") from error
    if not stat.S_ISREG(status.st_mode):
        raise MediaError(f"{path}: no such file, but a folder or a device", "missing")
    if not status.st_size:
        raise MediaError(f"{path}: the file is empty", "empty")


@contextlib.contextmanager
def read_errors(path: str | pathlib.Path) -> Iterator[None]:
    """Turns what else reading a medium may raise into `MediaError`, so that it is skipped."""
    try:
        yield
    except MediaError:
        raise
    except (OSError, ValueError, ArithmeticError, RuntimeError, MemoryError) as error:
        if disk_full.is_full(error):  # that of a temporary copy; the sample is not to blame
            raise
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise MediaError(f"{path}: cannot be read ({reason})", "unreadable") from error
