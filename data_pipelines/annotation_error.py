"""Unusable annotations: the error that a parser raises, and the fault that a reader records."""

import dataclasses

from ivx.text.printable import quoted

# Causes, in the order in which a reader meets them.
NOT_TEXT = "not UTF-8"
CUT = "cut off"
NOT_JSON = "not JSON"
MISSING = "missing key"
UNKNOWN = "unknown key"
TYPE = "wrong type"
VALUE = "wrong value"
REPEATED = "repeated id"
ADDRESS = "media not allowed"
SPAN = "span outside the video"
TEMPLATE = "words and media do not fit"
GONE = "media not there"
UNREADABLE = "media not readable"
# Files of a prepared data set.
LOST = "file missing"
CHANGED = "not as written"


class AnnotationError(ValueError):
    """A mixture or annotation that cannot be used. The message names the file, line and cause.

    Attributes:
      cause: two or three words, one of the constants above.
    """

    def __init__(self, message: str, cause: str = VALUE) -> None:
        super().__init__(quoted(message))
        self.cause = cause


@dataclasses.dataclass(frozen=True)
class Fault:
    """Why an annotation was skipped.

    Attributes:
      where: file:line of the annotation.
      cause: one of the constants above.
      sentence: the full message, printable.
    """

    where: str
    cause: str
    sentence: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "sentence", quoted(self.sentence))

    @classmethod
    def from_error(cls, where: str, error: AnnotationError) -> "Fault":
        """The fault of the annotation at `where`."""
        return cls(where, error.cause, str(error))
