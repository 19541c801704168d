"""Episodes on disk: trace.jsonl, one typed event per line.

    {"type": "action", "step": 2, "time": 1.5, "text": ..., "name": "inspect", "arguments": {...}}

A trace holds the complete conversation, so it can be replayed, inspected and trained on:
`to_sample` converts it to an annotation with loss on the model's turns.
"""

import dataclasses
import json
import pathlib
from typing import Any

from ivx.agent import context
from ivx.agent.context import Episode, Event
from ivx.errors import UserError

FILE = "trace.jsonl"
_KINDS = {kind.__name__.lower(): kind for kind in context.KINDS}


def write(path: pathlib.Path, episode: Episode) -> None:
    """Writes an episode; fields with default values are omitted."""
    lines = [json.dumps(_record(event)) + "\n" for event in episode.events]
    path.write_text("".join(lines), encoding="utf-8")


def read(path: pathlib.Path) -> Episode:
    """Reads an episode that `write` wrote.

    Raises:
      UserError: the file is not a complete trace.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text ({error}); pass a {FILE} written by `ivx agent`"
        ) from error
    events = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            kind = _KINDS[record.pop("type")]
            events.append(kind(**{key: _tuples(key, value) for key, value in record.items()}))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}:{number} is not a trace event ({error}); pass a {FILE} written by"
                " `ivx agent`"
            ) from error
    if not events or not isinstance(events[0], context.Instruction):
        raise UserError(
            f"{path} does not begin with an instruction; pass a {FILE} written by `ivx agent`"
        )
    if not isinstance(events[-1], context.Answer):
        raise UserError(f"{path} is truncated: it does not end with an answer; rerun `ivx agent`")
    return Episode(tuple(events))


def to_sample(episode: Episode, sample_id: str) -> dict:
    """The episode as an annotation; video paths are relative to the folder of the file."""
    return {
        "id": sample_id,
        "messages": episode.messages,
        "tools": list(episode.instruction.tools),
    }


def _record(event: Event) -> dict:
    record = {"type": type(event).__name__.lower()}
    for field in dataclasses.fields(event):
        value = getattr(event, field.name)
        if field.default is dataclasses.MISSING or value != field.default:
            record[field.name] = value
    return record


def _tuples(key: str, value: Any) -> Any:
    """Converts the lists of JSON back to tuples."""
    return tuple(value) if key in ("span", "evidence", "frames", "tools") else value
