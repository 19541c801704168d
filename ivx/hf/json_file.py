"""Reads and writes the small JSON files of a folder."""

import json
import pathlib

from ivx.errors import UserError


def read(path: pathlib.Path) -> dict:
    """The JSON object in a file.

    Raises:
      UserError: the file is missing or holds no JSON object.
    """
    if not path.is_file():
        raise UserError(
            f"{path.parent} has no {path.name}; give a folder in the Hugging Face format"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}; download it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object; download it again")
    return content


def write(path: pathlib.Path, content: dict) -> None:
    """Writes a JSON object; non-ASCII characters are not escaped."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
