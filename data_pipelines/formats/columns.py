"""Checked reading of an entry's columns."""

import sys

from data_pipelines.annotation_error import MISSING, TYPE, AnnotationError

_NAMES = {str: "text", list: "a list", float: "a number"}


def get(value, key: str, kind: type, where: str):
    """`value[key]`, which must be of the kind; a float may be a whole number, and text a number.

    Raises:
      AnnotationError: it is missing, or of another kind.
    """
    if not isinstance(value, dict) or value.get(key) is None:
        has = sorted(map(str, value)) if isinstance(value, dict) else str(value)[:80]
        raise AnnotationError(f"{where}: no {key}; there is {has}", MISSING)
    found = value[key]
    if is_number(found) and kind in (float, str):
        return kind(found)
    if kind is float or not isinstance(found, kind):
        raise AnnotationError(f"{where}: {key} is {str(found)[:80]!r}, not {_NAMES[kind]}", TYPE)
    return found


def is_number(value) -> bool:
    """Whether a value of JSON is a number that a float can hold; NaN is none."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max
