"""Unusable videos and images: the error, and the message about the sample that is skipped."""

from ivx.text.printable import quoted


class MediaError(ValueError):
    """A video or an image that cannot be used. The message names the file and the cause.

    Attributes:
      cause: at most two words, by which skipped samples are counted.
    """

    def __init__(self, message: str, cause: str = "unusable") -> None:
        super().__init__(quoted(message))
        self.cause = cause


class SkippedSample(str):
    """The log message about a sample that was skipped.

    Attributes:
      cause: that of the error; skipped samples are counted by cause.
    """

    cause: str

    @classmethod
    def from_error(cls, error: MediaError, sample_id: str) -> "SkippedSample":
        """The message about the sample that raised `error`."""
        message = cls(quoted(f"sample {sample_id}: {error}"))
        message.cause = error.cause
        return message
