"""The error of files that cannot be shown to a model."""


class MediaError(ValueError):
    """A video or an image that cannot be used; the message names the file and the cause.

    Attributes:
      cause: in two words at most, the same for all files of which the same is wrong.
    """

    def __init__(self, message: str, cause: str = "unusable"):
        super().__init__(message)
        self.cause = cause
