"""JSON values from outside: parsed, and checked for what later code could not write or walk.

Such a value holds no NUL and no half of a surrogate pair, which no file name, tokenizer or terminal
takes, and is nested at most `DEPTH` levels, which recursive code can walk. No key occurs twice in
an object, since a parser would keep one value and drop the other without a word.
"""

import collections
import json
from typing import Any

from data_pipelines.annotation_error import NOT_JSON, NOT_TEXT, VALUE, AnnotationError
from ivx.text.printable import misencoded

# Annotations have about ten levels.
DEPTH = 100


class RepeatingObject(dict):
    """An object in which keys occur more than once; it holds the last value of each.

    Attributes:
      repeated: these keys.
    """

    repeated: list[str]


def loads(text: str) -> Any:
    """Parses a JSON text; objects with repeated keys become `RepeatingObject`.

    Raises:
      ValueError: it is not JSON.
      RecursionError: it is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    counts = collections.Counter(key for key, _ in pairs)
    repeating = RepeatingObject(value)
    repeating.repeated = [key for key, count in counts.items() if count > 1]
    return repeating


def parse(text: str, where: str) -> Any:
    """Parses a JSON text.

    Raises:
      AnnotationError: it is not JSON, or as `check`.
    """
    try:
        value = loads(text)
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{where}: not valid JSON ({error})", NOT_JSON) from error
    check(value, where)
    return value


def check(value: Any, where: str) -> None:
    """Checks a parsed value.

    Raises:
      AnnotationError: a text in it is not UTF-8 or holds NUL, a key is repeated, or it is nested
        too deeply.
    """
    level = [value]
    for _ in range(DEPTH + 1):
        if not level:
            return
        below = []
        for part in level:
            if isinstance(part, str):
                _check_text(part, where)
            elif isinstance(part, RepeatingObject):
                raise AnnotationError(
                    f"{where}: the key {part.repeated[0][:80]!r} occurs more than once in an"
                    " object; remove all but one",
                    VALUE,
                )
            elif isinstance(part, dict):
                below += part.keys()
                below += part.values()
            elif isinstance(part, (list, tuple)):
                below += part
        level = below
    raise AnnotationError(f"{where}: nested more than {DEPTH} levels deep", VALUE)


def _check_text(text: str, where: str) -> None:
    # Nearly every text passes the first test, which is fast.
    if text.isprintable() or not (reason := misencoded(text)):
        return
    cause = VALUE if "NUL" in reason else NOT_TEXT
    raise AnnotationError(f"{where}: the text {text[:80]!r} holds {reason}; remove it", cause)
