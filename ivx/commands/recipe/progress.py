"""What a recipe has done so far: one small file a stage, written when the stage is whole."""

import dataclasses
import hashlib
import json
import pathlib

FILE = "stage.json"


@dataclasses.dataclass(frozen=True)
class Done:
    """A finished stage.

    Attributes:
      name: of the stage.
      origin: a digest of its config and of the stages before it.
      seconds: wall time of the start that finished it.
      resumed: whether an earlier start had begun it.
      steps: optimizer steps; 0 where nothing was trained.
      tokens: text and video tokens trained on.
      facts: what else the stage reports.
      loss: on the held-out packs, nats a token; None where there are none, or no model.
      rows: per data set the rows of `ivx.evaluation.scoring.Row`, as plain values.
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


def read(folder: pathlib.Path) -> Done | None:
    """The record of a finished stage, or None."""
    path = folder / FILE
    return Done(**json.loads(path.read_text())) if path.is_file() else None


def write(folder: pathlib.Path, done: Done) -> None:
    """Marks a stage as finished."""
    partial = folder / f".{FILE}.partial"
    partial.write_text(json.dumps(dataclasses.asdict(done), indent=1) + "\n")
    partial.replace(folder / FILE)


def digest(*parts: str) -> str:
    """A short name for a text in parts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def begin(workdir: pathlib.Path, name: str) -> bool:
    """Notes that a stage has begun; returns whether an earlier start had done so."""
    mark = workdir / f".{name}.begun"
    before = mark.exists()
    mark.touch()
    return before
