"""The sums of a pass that was cut off, on disk, so that it goes on where it stopped.

    DIR/{batches}/state.json      how many batches and tokens the sums are of
    DIR/{batches}/{name}.npy      one array a sum, float64

A folder is written under another name and renamed when it is whole; the one before it goes after
that. The order of the batches and of the additions is the same as without a stop, so that the sums
are the same to the last bit.
"""

import json
import pathlib
import shutil
from typing import NamedTuple

import numpy as np

_STATE = "state.json"


class Partial(NamedTuple):
    """Sums over the first `batches` batches, which hold `tokens` tokens."""

    batches: int
    tokens: int
    sums: dict[str, np.ndarray]


class PartialSums:
    """Sums kept in a folder.

    Args:
      folder: belongs to one pass over one model's calibration batches.
      every: seconds of work that may be lost.
    """

    def __init__(self, folder: pathlib.Path, every: float = 600.0):
        self.every = every
        self._folder = folder

    def load(self) -> Partial | None:
        """The newest whole ones."""
        kept = self._kept()
        if not kept:
            return None
        state = json.loads((kept[-1] / _STATE).read_text())
        sums = {path.stem: np.load(path) for path in sorted(kept[-1].glob("*.npy"))}
        return Partial(state["batches"], state["tokens"], sums)

    def keep(self, partial: Partial) -> None:
        """Writes them; those before go when they are whole."""
        before, place = self._kept(), self._folder / f"{partial.batches:06d}"
        if place in before:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        writing = self._folder / ".writing"
        shutil.rmtree(writing, ignore_errors=True)
        writing.mkdir()
        for name, values in partial.sums.items():
            np.save(writing / f"{name}.npy", values)
        state = {"batches": partial.batches, "tokens": partial.tokens}
        (writing / _STATE).write_text(json.dumps(state))
        shutil.rmtree(place, ignore_errors=True)
        writing.rename(place)
        for old in before:
            shutil.rmtree(old)

    def remove(self) -> None:
        """Forgets them: the conversion they are for is stored."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _kept(self) -> list[pathlib.Path]:
        return sorted(p for p in self._folder.glob("[0-9]*") if (p / _STATE).is_file())
