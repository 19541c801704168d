"""Compares the data of a restarted run with those that its checkpoint was trained on.

A checkpoint stores what the data sets were (`data_pipelines.data_record`). Its position, a number
of batches, means something else in other data, so these are refused unless the user accepts them.
Accepted changes are stored with every later checkpoint and in the workdir:

    data_changes.json    [{"step": 200, "changes": ["train: a.jsonl has 40 rows instead of 41"]}]
"""

import json
import pathlib
from typing import Any

from data_pipelines import data_record
from ivx import progress
from ivx.errors import UserError

FILE = "data_changes.json"
# Changes that an error names.
_NAMED = 5


def facts(
    sources: dict[str, dict[str, Any]], stored: dict[str, Any] | None, step: int, accepted: bool
) -> dict[str, Any]:
    """What the next checkpoints of a run store about its data.

    Args:
      sources: records of the data sets, by name.
      stored: the `data` item of the checkpoint that the run resumes from; None at its start.
      step: of that checkpoint.
      accepted: whether the run may go on with other data.

    Raises:
      UserError: the data have changed.
    """
    if stored is None:
        return {"sources": sources, "changes": []}
    history = stored.get("changes", [])
    if "sources" not in stored:
        progress.note(
            f"the checkpoint of step {step} is of an earlier version and does not say what data it"
            " was trained on; whether they have changed is unknown"
        )
        return {"sources": sources, "changes": history}
    changes = data_record.changes(stored["sources"], sources)
    if not changes:
        return {"sources": sources, "changes": history}
    named = "; ".join(changes[:_NAMED])
    if len(changes) > _NAMED:
        named += f"; and {len(changes) - _NAMED:,} more"
    if not accepted:
        raise UserError(
            f"the data are not those that this run was trained on until step {step}: {named};"
            " put the earlier data back, give another --workdir, or go on with these data by"
            " --accept_data_change"
        )
    progress.note(f"OTHER DATA from step {step} on, as accepted: {named}")
    return {"sources": sources, "changes": [*history, {"step": step, "changes": changes}]}


def write(workdir: pathlib.Path, changes: list[dict[str, Any]]) -> None:
    """Writes the accepted changes to the workdir, if there are any."""
    path = workdir / FILE
    if changes or path.exists():
        partial = workdir / f".{FILE}.partial"
        partial.write_text(json.dumps(changes, indent=1) + "\n")
        partial.replace(path)


def read(workdir: pathlib.Path) -> list[str]:
    """The accepted changes of a run, each as a sentence."""
    try:
        changes = json.loads((workdir / FILE).read_text())
        return [f"from step {one['step']} on: {'; '.join(one['changes'])}" for one in changes]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return [f"unknown, {FILE} is damaged"]
