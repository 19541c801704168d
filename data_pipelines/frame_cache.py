"""A memory cache of decoded patches, so that later epochs need not decode short clips again."""

import threading
from typing import Any

import numpy as np

from data_pipelines.layout import Layout
from data_pipelines.media_error import MediaError

# (patches, grids) of every slice, see `Layout.read_patches`.
Pixels = tuple[list[np.ndarray], list[np.ndarray]]


class FrameCache:
    """Reads the patches of layouts, and keeps those of the first samples, up to `limit` bytes.

    Entries are never evicted: epochs are shuffled, so every choice of samples saves the same work.
    Failures are cached too, so that a bad file is opened once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0
        self._entries: dict[tuple, Pixels | MediaError] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        # A worker process starts with an empty cache.
        return {"limit": self._limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["limit"])

    def read(self, layout: Layout) -> Pixels:
        """Returns `layout.read_patches()`, from memory if possible.

        Raises:
          MediaError: a file cannot be decoded.
        """
        key = tuple(
            (
                (clip.path, clip.info, clip.still, clip.on_show, clip.height, clip.width),
                clip.indices.tobytes(),
            )
            for clip in layout.clips
        )
        entry = self._entries.get(key)
        if entry is None:
            try:
                entry = layout.read_patches()
            except MediaError as error:
                # A copy without the traceback, which would keep the decoder's frames alive.
                entry = MediaError(str(error), error.cause)
            self._store(key, entry)
        if isinstance(entry, MediaError):
            raise MediaError(str(entry), entry.cause)
        return entry

    def _store(self, key: tuple, entry: Pixels | MediaError) -> None:
        size = 0 if isinstance(entry, MediaError) else sum(rows.nbytes for rows in entry[0])
        with self._lock:
            if key not in self._entries and self._bytes + size <= self._limit:
                self._bytes += size
                self._entries[key] = entry
