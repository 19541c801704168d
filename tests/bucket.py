"""An in-memory bucket that stands in for gs://."""

from typing import Any

from fsspec.implementations.memory import MemoryFileSystem


class Bucket(MemoryFileSystem):
    """The file system that `fsspec` uses for gs:// in tests."""

    def __init__(self, *args: Any, finalize_on_close: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return super()._strip_protocol(str(path).replace("gs://", "memory://"))
