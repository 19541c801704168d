"""Annotations that cannot be used: the error that one raises, and the fault that a reader notes."""

import dataclasses

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
# Of the files of a prepared folder.
LOST = "file missing"
CHANGED = "not as written"


class AnnotationError(ValueError):
    """A mixture or annotation that cannot be used; the message names file, line and cause.

    Attributes:
      cause: in two or three words, the same for all faults of a kind.
    """

    def __init__(self, message: str, cause: str = VALUE):
        super().__init__(message)
        self.cause = cause


@dataclasses.dataclass(frozen=True)
class Fault:
    """A sample that was left out: its place (file:line), the cause, and a sentence."""

    where: str
    cause: str
    sentence: str
