"""Decoded patches kept in memory up to a limit: later epochs need not decode short clips again."""

import threading

import numpy as np

from data_pipelines.layout import Layout
from data_pipelines.media_error import MediaError

Pixels = tuple[list[np.ndarray], list[np.ndarray]]


class FrameCache:
    """Reads the patches of layouts; keeps those of the first samples seen, up to `limit` bytes.

    Samples are kept as they come and never replaced: a run that shuffles its epochs gains the same
    whichever it keeps. Failures are kept too, so that a bad file is opened once.
    """

    def __init__(self, limit: int):
        self._limit = limit
        self._held = 0
        self._pixels: dict[tuple, Pixels | MediaError] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        # A worker process starts with an empty cache of its own.
        return {"limit": self._limit}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["limit"])

    def read(self, layout: Layout) -> Pixels:
        """What `layout.read_patches()` gives.

        Raises:
          MediaError: as it does.
        """
        key = tuple(
            (clip.path, clip.still, clip.height, clip.width, clip.indices.tobytes())
            for clip in layout.clips
        )
        found = self._pixels.get(key)
        if found is None:
            try:
                found = layout.read_patches()
            except MediaError as error:
                # Without its traceback, which would keep the frames of the decoder.
                found = MediaError(str(error), error.cause)
            self._keep(key, found)
        if isinstance(found, MediaError):
            raise MediaError(str(found), found.cause)
        return found

    def _keep(self, key: tuple, pixels: Pixels | MediaError) -> None:
        size = 0 if isinstance(pixels, MediaError) else sum(rows.nbytes for rows in pixels[0])
        with self._lock:
            if key not in self._pixels and self._held + size <= self._limit:
                self._held += size
                self._pixels[key] = pixels
