"""The error of files that cannot be shown to a model."""


class MediaError(ValueError):
    """A video or an image that cannot be used; the message names the file and the cause."""
