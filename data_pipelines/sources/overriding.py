"""What a data set changes of the rules of layout, as mixtures and prepared samples write it."""

import dataclasses
from collections.abc import Mapping

from data_pipelines.annotation_error import AnnotationError
from data_pipelines.formats.columns import is_number
from data_pipelines.sources.sample import Overrides

NAMES = tuple(field.name for field in dataclasses.fields(Overrides))


def read(given: Mapping, where: str) -> Overrides | None:
    """The overrides among the keys of `given`; None where there are none.

    Raises:
      AnnotationError: one of them is not of its type.
    """
    found = {key: given[key] for key in NAMES if given.get(key) is not None}
    for key, value in found.items():
        if key == "add_vision_id":
            good, wanted = isinstance(value, bool), "true or false"
        elif key == "fps":
            good, wanted = is_number(value) and value > 0, "a positive number"
        else:
            good = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            wanted = "a whole number of at least 1"
        if not good:
            raise AnnotationError(f"{where} has {key} {value!r}; it must be {wanted}")
    return Overrides(**found) if found else None


def written(overrides: Overrides | None) -> dict:
    """As `read` reads it."""
    facts = dataclasses.asdict(overrides) if overrides else {}
    return {key: value for key, value in facts.items() if value is not None}


def joined(first: Overrides | None, second: Overrides | None) -> Overrides | None:
    """Both; where both change the same, the first counts."""
    facts = written(second) | written(first)
    return Overrides(**facts) if facts else None
