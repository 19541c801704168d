"""Local files for media addresses: external media are copied for as long as they are open.

External media are remote files and records of prepared or TFDS data sets. Only addresses under a
mixture's `media_root` are opened, and nothing is fetched over http. Every use makes a new copy, so
annotations should give the sizes of remote media: then each file is copied once, to be decoded.
"""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator
from typing import IO

from etils import epath

from data_pipelines import disk_full, media_files, tfds_records
from data_pipelines.media_error import MediaError
from data_pipelines.prepared import shards

# Schemes that `etils.epath` reads through fsspec.
REMOTE = ("gs://", "s3://")
# Per file, to protect the disk of a host. An hour of 1080p video takes about two GiB.
MAX_BYTES = 8 * 2**30
_CHUNK = 2**24


def is_remote(path: str) -> bool:
    """Whether `path` is an address on a supported remote file system."""
    return path.startswith(REMOTE)


@contextlib.contextmanager
def local(path: str) -> Iterator[str]:
    """The path of a local file with the bytes of `path`; `path` itself if it is local.

    Raises:
      MediaError: the file is missing, too large, or cannot be copied. A `MediaError` of the `with`
        body is raised again with the address in place of the path of the copy.
    """
    if not is_remote(path) and not _is_record(path):
        yield path
        return
    with tempfile.NamedTemporaryFile(suffix=pathlib.PurePosixPath(path).suffix[:8]) as copy:
        if is_remote(path):
            _copy(path, copy)
        elif tfds_records.is_address(path):
            copy.write(tfds_records.media(path))
        else:
            copy.writelines(shards.pieces(path))
        copy.flush()
        try:
            yield copy.name
        except MediaError as error:
            raise MediaError(str(error).replace(copy.name, path), error.cause) from error


def exists(path: str) -> bool:
    """Whether the file exists; for a record, whether the file of records does.

    Raises:
      MediaError: it is empty, or cannot be reached.
    """
    if tfds_records.is_address(path):
        return True
    path = shards.file_of(path)
    if not is_remote(path):
        try:
            media_files.check(path)
        except MediaError as error:
            if error.cause == "missing":
                return False
            raise
        return True
    with remote_errors(path):
        return epath.Path(path).is_file()


def file_name(path: str) -> str:
    """The file name of a path or an address."""
    url = tfds_records.url(path) if tfds_records.is_address(path) else path
    return pathlib.PurePosixPath(url).name


def is_external(path: str) -> bool:
    """Whether `path` is remote or a record, and not a local file or folder."""
    return is_remote(path) or _is_record(path) or bool(shards.frames(path))


def _is_record(path: str) -> bool:
    return tfds_records.is_address(path) or shards.is_address(path)


@contextlib.contextmanager
def remote_errors(path: str) -> Iterator[None]:
    """Turns the errors of remote file systems into `MediaError`."""
    try:
        yield
    except MediaError:
        raise
    except FileNotFoundError as error:
        raise MediaError(f"{path}: no such file", "missing") from error
    except ImportError as error:
        raise MediaError(
            f"{path}: its file system needs a package ({error}); for gs:// install 'ivx[gcs]'",
            "unreadable",
        ) from error
    except Exception as error:  # every client has its own errors
        if disk_full.is_full(error):  # the disk of the copy
            raise
        raise MediaError(
            f"{path}: cannot be read ({type(error).__name__}: {error})", "unreadable"
        ) from error


def _copy(path: str, copy: IO[bytes]) -> None:
    with remote_errors(path):
        size = epath.Path(path).stat().length
        if size > MAX_BYTES:
            raise MediaError(
                f"{path}: {size:,} bytes; at most {MAX_BYTES:,} are allowed", "byte limit"
            )
        with epath.Path(path).open("rb") as source:
            while chunk := source.read(_CHUNK):
                copy.write(chunk)
                if copy.tell() > MAX_BYTES:
                    raise MediaError(
                        f"{path}: more than the {MAX_BYTES:,} bytes allowed", "byte limit"
                    )
