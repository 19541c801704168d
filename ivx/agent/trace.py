"""Episodes on disk: trace.jsonl, one typed event a line, and what becomes of them.

    {"type": "action", "step": 2, "time": 1.5, "text": ..., "name": "inspect", "arguments": {...}}

A trace holds the whole conversation, so that it can be replayed, read and trained on: `to_sample`
gives it as an annotation in which loss falls on what the model said.
"""

import dataclasses
import json
import pathlib

from ivx.agent import context
from ivx.agent.context import Episode, Event
from ivx.errors import UserError

FILE = "trace.jsonl"
_KINDS = {kind.__name__.lower(): kind for kind in context.KINDS}


def write(path: pathlib.Path, episode: Episode) -> None:
    """Writes an episode; fields that say nothing are left out."""
    lines = [json.dumps(_record(event)) + "\n" for event in episode.events]
    path.write_text("".join(lines), encoding="utf-8")


def read(path: pathlib.Path) -> Episode:
    """The episode that `write` wrote.

    Raises:
      UserError: the file is not a whole trace.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 text ({error}); give a {FILE} of `ivx agent`"
        ) from error
    events = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            kind = _KINDS[record.pop("type")]
            events.append(kind(**{key: _tuples(key, value) for key, value in record.items()}))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}:{number}: not an event of a trace ({error}); give a {FILE} of `ivx agent`"
            ) from error
    if not events or not isinstance(events[0], context.Instruction):
        raise UserError(f"{path}: a trace begins with an instruction; this one does not")
    if not isinstance(events[-1], context.Answer):
        raise UserError(f"{path}: the trace was cut off: it does not end with an answer")
    return Episode(tuple(events))


def to_sample(episode: Episode, sample_id: str) -> dict:
    """The episode as an annotation; videos are relative to the folder that holds the file."""
    return {
        "id": sample_id,
        "messages": episode.messages,
        "tools": list(episode.instruction.tools),
    }


def _record(event: Event) -> dict:
    found = {"type": type(event).__name__.lower()}
    for field in dataclasses.fields(event):
        value = getattr(event, field.name)
        if field.default is dataclasses.MISSING or value != field.default:
            found[field.name] = value
    return found


def _tuples(key: str, value):
    """Lists that were tuples."""
    return tuple(value) if key in ("span", "evidence", "frames", "tools") else value
