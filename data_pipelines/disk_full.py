"""Recognises errors of a disk that takes no more bytes, whichever library reports them.

Orbax, safetensors and ArrayRecord raise errors of their own, with the system's text in them.
"""

import errno
import os

_CODES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def is_full(error: BaseException) -> bool:
    """Whether an error, or one that it comes from, says that nothing can be written."""
    return _reason(error) is not None


def sentence(error: BaseException) -> str:
    """What to tell the user; empty if the disk is not the reason."""
    reason = _reason(error)
    if reason is None:
        return ""
    text, file = reason
    if text == os.strerror(errno.EROFS) and file:
        return f"{file}: {text}"
    return f"{file or 'a file'} could not be written: {text}; free some space and start again"


def _reason(error: BaseException | None) -> tuple[str, str] | None:
    """The system's text and the file, which may be empty."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        if isinstance(error, OSError) and error.errno in _CODES:
            return os.strerror(error.errno), str(error.filename2 or error.filename or "")
        for code in _CODES:
            if os.strerror(code) in str(error):
                return os.strerror(code), ""
        error = error.__cause__ or error.__context__
    return None
