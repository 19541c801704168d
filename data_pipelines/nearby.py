"""A file here for every address of media: what lies elsewhere is copied as long as it is open.

Only addresses that a mixture's media_root begins with get here, and those of records; nothing is
fetched by http. A copy is made anew each time, so give the sizes of remote media in annotations:
then each is read once, when it is decoded.
"""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator

from etils import epath

from data_pipelines import tfds_records
from data_pipelines.media_error import MediaError
from data_pipelines.prepared import shards

# What `etils.epath` reads by fsspec.
REMOTE = ("gs://", "s3://")
# Of one file; a guard of the disk of a host. An hour of 1080p has about two GiB.
MAX_BYTES = 8 * 2**30
_CHUNK = 2**24


def is_remote(path: str) -> bool:
    """Whether `path` is an address of a remote file system that is read."""
    return path.startswith(REMOTE)


@contextlib.contextmanager
def local(path: str) -> Iterator[str]:
    """A local file with the bytes of `path`; its own name where it is one.

    Raises:
      MediaError: it is not there, too large, or cannot be copied; also what the body raises, with
        the address instead of the name of the copy.
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
            raise MediaError(str(error).replace(copy.name, path)) from error


def exists(path: str) -> bool:
    """Whether there is such a file; of a record, the file of records."""
    if tfds_records.is_address(path):
        return True
    path = shards.file_of(path)
    if not is_remote(path):
        return pathlib.Path(path).is_file()
    with remote_errors(path):
        return epath.Path(path).is_file()


def name(path: str) -> str:
    """The last part of the name of a file, wherever it lies."""
    known = tfds_records.url(path) if tfds_records.is_address(path) else path
    return pathlib.PurePosixPath(known).name


def is_elsewhere(path: str) -> bool:
    """Whether `path` is no file or folder here."""
    return is_remote(path) or _is_record(path) or bool(shards.frames(path))


def _is_record(path: str) -> bool:
    return tfds_records.is_address(path) or shards.is_address(path)


@contextlib.contextmanager
def remote_errors(path: str) -> Iterator[None]:
    """What the clients of remote file systems raise, as `MediaError`."""
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
    except Exception as error:  # each client has errors of its own
        raise MediaError(
            f"{path}: cannot be read ({type(error).__name__}: {error})", "unreadable"
        ) from error


def _copy(path: str, copy) -> None:
    with remote_errors(path):
        size = epath.Path(path).stat().length
        if size > MAX_BYTES:
            raise MediaError(f"{path}: {size:,} bytes; allowed are {MAX_BYTES:,}", "byte limit")
        with epath.Path(path).open("rb") as source:
            while chunk := source.read(_CHUNK):
                copy.write(chunk)
                if copy.tell() > MAX_BYTES:
                    raise MediaError(
                        f"{path}: more than the {MAX_BYTES:,} bytes allowed", "byte limit"
                    )
