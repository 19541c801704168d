"""A bucket that lives in memory, in place of gs://."""

from fsspec.implementations.memory import MemoryFileSystem


class Bucket(MemoryFileSystem):
    """What `fsspec` takes for the client of gs:// in tests."""

    def __init__(self, *args, finalize_on_close: bool = True, **more):
        super().__init__(*args, **more)

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).replace("gs://", "memory://"))
