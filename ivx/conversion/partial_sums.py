"""Checkpoints of the sums of a calibration pass, so that an interrupted pass resumes.

    DIR/{batches}/state.json      the number of batches and tokens in the sums, their checksums,
                                  and what they were made of
    DIR/{batches}/{name}.npy      one array per sum, float64

A checkpoint is written under a temporary name and renamed once complete; then its predecessor is
deleted. Batches and additions keep their order, so a resumed pass gives bitwise the same sums. If
the checkpoint is damaged, or was made of other data, the pass starts over.
"""

import json
import pathlib
import shutil
import zlib
from collections.abc import Callable
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
      origin: describes the model and the data; sums of another origin are not continued.
      tell: called with the reason if the checkpoint cannot be continued.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        every: float = 600.0,
        origin: str = "",
        tell: Callable[[str], object] = lambda reason: None,
    ) -> None:
        self.every = every
        self._folder, self._origin, self._tell = folder, origin, tell
        self._stored = -1  # the number of batches in the newest checkpoint of this pass

    def load(self) -> Partial | None:
        """The newest complete checkpoint, if there is one that can be continued."""
        checkpoints = self._checkpoints()
        if not checkpoints:
            return None
        try:
            state = json.loads((checkpoints[-1] / _STATE).read_text())
            if state["origin"] != self._origin:
                self._tell("the statistics start over: the data or the model have changed")
                return None
            paths = [checkpoints[-1] / f"{name}.npy" for name in state["checksums"]]
            sums = {path.stem: np.load(path) for path in paths}
            if {name: _checksum(sums[name]) for name in sums} != state["checksums"]:
                raise ValueError("its checksums differ")
            self._stored = int(state["batches"])
            return Partial(self._stored, int(state["tokens"]), sums)
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            self._tell(f"the statistics start over: {checkpoints[-1]} is damaged ({error})")
            return None

    def save(self, partial: Partial) -> None:
        """Writes a checkpoint, then deletes the earlier ones."""
        if partial.batches == self._stored:
            return
        previous, folder = self._checkpoints(), self._folder / f"{partial.batches:06d}"
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / ".writing"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        for name, values in partial.sums.items():
            np.save(temporary / f"{name}.npy", values)
        state = {
            "batches": partial.batches,
            "tokens": partial.tokens,
            "origin": self._origin,
            "checksums": {name: _checksum(values) for name, values in partial.sums.items()},
        }
        (temporary / _STATE).write_text(json.dumps(state))
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        for path in previous:
            if path != folder:
                shutil.rmtree(path)
        self._stored = partial.batches

    def remove(self) -> None:
        """Deletes all checkpoints, once the conversion is stored."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _checkpoints(self) -> list[pathlib.Path]:
        return sorted(p for p in self._folder.glob("[0-9]*") if (p / _STATE).is_file())


def _checksum(values: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(values).data)
