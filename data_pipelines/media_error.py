"""The error of files that cannot be shown to a model, and what is said of a sample for it."""


class MediaError(ValueError):
    """A video or an image that cannot be used; the message names the file and the cause.

    Attributes:
      cause: in two words at most, the same for all files of which the same is wrong.
    """

    def __init__(self, message: str, cause: str = "unusable"):
        super().__init__(message)
        self.cause = cause


class Skipped(str):
    """A sentence for a sample that was left out, as it is logged; it is counted by its cause.

    Attributes:
      cause: of the error.
    """

    cause: str

    @classmethod
    def by(cls, error: MediaError, sample_id: str) -> "Skipped":
        """The sentence for a sample that has the error."""
        sentence = cls(f"sample {sample_id}: {error}")
        sentence.cause = error.cause
        return sentence
