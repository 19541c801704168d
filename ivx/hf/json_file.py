"""Reads and writes the small JSON files of a folder, which anyone may have written."""

import json
import math
import pathlib
import reprlib
from typing import Any

from ivx.errors import UserError

# The largest file that is read; the index of a model with 300,000 tensors has 30 MB.
_MAX_BYTES = 64 << 20
# `model_max_length` is written with 31 digits.
_MAX_DIGITS = 40
# Characters of a name in a message.
_MAX_NAME = 200

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlevel = 2


def read(path: pathlib.Path) -> dict:
    """The JSON object in a file; its numbers are finite.

    Raises:
      UserError: the file is missing, too large, or holds no JSON object.
    """
    if not path.is_file():
        raise UserError(
            f"{path.parent} has no {path.name}; give a folder in the Hugging Face format"
        )
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise UserError(
            f"{path} has {size:,} bytes, expected at most {_MAX_BYTES:,}; download it again"
        )
    try:
        content = json.loads(
            path.read_text(encoding="utf-8"),
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_number,
        )
    except RecursionError:
        raise UserError(f"{path} is damaged: it is nested too deeply; download it again") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}; download it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object; download it again")
    return content


def shown(value: Any) -> str:
    """A value of a file in a message: short and on one line."""
    return _SHORT.repr(value)


def shown_name(name: str) -> str:
    """A name of a file in a message: like `shown`, without quotes."""
    return repr(name[:_MAX_NAME])[1:-1] + ("..." if len(name) > _MAX_NAME else "")


def write(path: pathlib.Path, content: dict) -> None:
    """Writes a JSON object; non-ASCII characters are not escaped."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"it holds a number of {len(text)} digits")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds the number {text[:_MAX_DIGITS]}, which is not finite")
    return value
