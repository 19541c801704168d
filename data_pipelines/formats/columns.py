"""Type-checked access to the columns of an entry."""

import sys
from collections.abc import Callable, Iterable
from typing import Any

from data_pipelines.annotation_error import MISSING, TYPE, AnnotationError

_NAMES = {str: "text", list: "a list", float: "a number"}
# More than any video lasts. Products with a rate stay far from the limits of integers.
_MOST_SECONDS = 1e9


def get(value: Any, key: str, kind: type, where: str) -> Any:
    """Returns `value[key]` as `kind`. A number is accepted where `kind` is float or str.

    Raises:
      AnnotationError: the column is missing or a blank text, or has another type.
    """
    if not isinstance(value, dict) or value.get(key) is None:
        columns = sorted(map(str, value)) if isinstance(value, dict) else str(value)[:80]
        raise AnnotationError(f"{where}: no {key}, got {columns}", MISSING)
    return checked(value[key], key, kind, where)


def checked(value: Any, name: str, kind: type, where: str) -> Any:
    """Returns `value` as `kind`, as `get` does; `name` is what messages call it."""
    if is_number(value) and kind in (float, str):
        return kind(value)
    if kind is float or not isinstance(value, kind):
        raise AnnotationError(f"{where}: {name} is {str(value)[:80]!r}, not {_NAMES[kind]}", TYPE)
    if kind is str and not value.strip():
        raise AnnotationError(f"{where}: {name} is blank", MISSING)
    return value


def of_each(
    parts: Iterable[Any], convert: Callable[[int, Any, str], dict], where: str
) -> list[dict | AnnotationError]:
    """An annotation of each part of an entry; an error stands for a part that is unusable.

    Args:
      parts: of the entry.
      convert: from the index, the part and its location to an annotation.
      where: file:line of the entry.
    """
    results = []
    for index, part in enumerate(parts):
        try:
            results.append(convert(index, part, f"{where}, question {index + 1}"))
        except AnnotationError as error:
            results.append(error)
    return results


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number that a float can hold; NaN is not."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max


def is_seconds(value: Any) -> bool:
    """Whether a JSON value can be a time in a video."""
    return is_number(value) and abs(value) <= _MOST_SECONDS


def is_span(value: Any) -> bool:
    """Whether a JSON value is [start, end] in seconds; their order is not checked."""
    return isinstance(value, list) and len(value) == 2 and all(map(is_seconds, value))
