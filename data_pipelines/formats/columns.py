"""Checked reading of an entry's columns."""

import math

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
    number = isinstance(found, (int, float)) and not isinstance(found, bool)
    if kind is float and number and math.isfinite(found):
        return float(found)
    if kind is str and number:
        return str(found)
    if kind is float or not isinstance(found, kind):
        raise AnnotationError(f"{where}: {key} is {str(found)[:80]!r}, not {_NAMES[kind]}", TYPE)
    return found
