"""Type-checked access to the columns of an entry."""

import sys
from typing import Any

from data_pipelines.annotation_error import MISSING, TYPE, AnnotationError

_NAMES = {str: "text", list: "a list", float: "a number"}


def get(value: Any, key: str, kind: type, where: str) -> Any:
    """Returns `value[key]` as `kind`. A number is accepted where `kind` is float or str.

    Raises:
      AnnotationError: the column is missing, or has another type.
    """
    if not isinstance(value, dict) or value.get(key) is None:
        columns = sorted(map(str, value)) if isinstance(value, dict) else str(value)[:80]
        raise AnnotationError(f"{where}: no {key}, got {columns}", MISSING)
    column = value[key]
    if is_number(column) and kind in (float, str):
        return kind(column)
    if kind is float or not isinstance(column, kind):
        raise AnnotationError(f"{where}: {key} is {str(column)[:80]!r}, not {_NAMES[kind]}", TYPE)
    return column


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number that a float can hold; NaN is not."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max
