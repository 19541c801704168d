"""The small JSON files of a folder: read with one sentence for what is wrong, written readably."""

import json
import pathlib

from ivx.errors import UserError


def read(path: pathlib.Path) -> dict:
    """The object that a file holds.

    Raises:
      UserError: there is no such file, or it holds no JSON object.
    """
    if not path.is_file():
        raise UserError(
            f"{path.parent} has no {path.name}; give a folder in the format of Hugging Face"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}; fetch it again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object; fetch it again")
    return found


def write(path: pathlib.Path, content: dict) -> None:
    """Writes an object; anything but ASCII stays as it is."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
