"""Checkpoints of the sums of a calibration pass, so that an interrupted pass resumes.

    DIR/{batches}/state.json      the number of batches and tokens in the sums
    DIR/{batches}/{name}.npy      one array per sum, float64

A checkpoint is written under a temporary name and renamed once complete; then its predecessor is
deleted. Batches and additions keep their order, so a resumed pass gives bitwise the same sums.
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
    """A folder of checkpoints.

    Args:
      folder: used by one pass over the calibration batches of one model.
      every: seconds between two checkpoints.
    """

    def __init__(self, folder: pathlib.Path, every: float = 600.0) -> None:
        self.every = every
        self._folder = folder

    def load(self) -> Partial | None:
        """The newest complete checkpoint, if any."""
        checkpoints = self._checkpoints()
        if not checkpoints:
            return None
        state = json.loads((checkpoints[-1] / _STATE).read_text())
        sums = {path.stem: np.load(path) for path in sorted(checkpoints[-1].glob("*.npy"))}
        return Partial(state["batches"], state["tokens"], sums)

    def save(self, partial: Partial) -> None:
        """Writes a checkpoint, then deletes the earlier ones."""
        previous, folder = self._checkpoints(), self._folder / f"{partial.batches:06d}"
        if folder in previous:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / ".writing"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        for name, values in partial.sums.items():
            np.save(temporary / f"{name}.npy", values)
        state = {"batches": partial.batches, "tokens": partial.tokens}
        (temporary / _STATE).write_text(json.dumps(state))
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        for path in previous:
            shutil.rmtree(path)

    def remove(self) -> None:
        """Deletes all checkpoints, once the conversion is stored."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _checkpoints(self) -> list[pathlib.Path]:
        return sorted(p for p in self._folder.glob("[0-9]*") if (p / _STATE).is_file())
