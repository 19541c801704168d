"""The record of a finished stage of a recipe: stage.json, written once the stage is complete."""

import dataclasses
import hashlib
import json
import pathlib

FILE = "stage.json"


@dataclasses.dataclass(frozen=True)
class StageRecord:
    """A finished stage.

    Attributes:
      name: name of the stage.
      origin: digest of its config and of the stages before it.
      seconds: wall time of the attempt that finished it.
      resumed: whether an earlier attempt was interrupted.
      steps: optimizer steps; 0 if nothing was trained.
      tokens: text and video tokens trained on.
      facts: other results of the stage.
      loss: loss on the held-out packs, nats per token; None without such packs or without a model.
      rows: for each data set, `ivx.evaluation.scoring.Row` as plain values.
    """

    name: str
    origin: str
    seconds: float
    resumed: bool
    steps: int
    tokens: int
    facts: dict
    loss: float | None
    rows: dict[str, list[dict]]


def read(folder: pathlib.Path) -> StageRecord | None:
    """The record of a finished stage, or None."""
    path = folder / FILE
    return StageRecord(**json.loads(path.read_text())) if path.is_file() else None


def write(folder: pathlib.Path, record: StageRecord) -> None:
    """Marks a stage as finished, atomically."""
    partial = folder / f".{FILE}.partial"
    partial.write_text(json.dumps(dataclasses.asdict(record), indent=1) + "\n")
    partial.replace(folder / FILE)


def digest(*parts: str) -> str:
    """A short digest of several texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def begin(workdir: pathlib.Path, name: str) -> bool:
    """Marks a stage as begun; returns whether an earlier attempt had begun it."""
    mark = workdir / f".{name}.begun"
    resumed = mark.exists()
    mark.touch()
    return resumed
