"""Errors of reading a checkpoint: whether they speak of damage, and what they say.

Damaged files raise errors of any type: Orbax and Tensorstore do not check all that they read. So
everything counts as damage but what is known to have another cause: this machine or its storage.
"""

import contextlib
import errno
import logging
import re
import sys
from collections.abc import Iterator

import jax
from etils import epath

from ivx.errors import UserError

# Short of memory or handles, no access, no connection.
_ELSEWHERE = (
    *(errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EPERM),
    *(errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTUNREACH, errno.ENETUNREACH),
)
# The same in the words of Tensorstore, whose errors have no number.
_ELSEWHERE_TEXT = re.compile(
    r"RESOURCE_EXHAUSTED|PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE|DEADLINE_EXCEEDED"
    r"|Permission denied|Cannot allocate memory|bad_alloc|Too many open files"
    r"|Stale file handle|Connection timed out|Transport endpoint is not connected"
)
# Raised at once: the first may be explained further, the second may be about another host.
OF_THIS_PROCESS = (MemoryError, jax.errors.JaxRuntimeError)


def summary(error: Exception) -> str:
    """An error on one line, with its type where the text alone says little."""
    text = " ".join(str(error).split())[:300]
    return (
        text
        if isinstance(error, OSError | ValueError) and text
        else f"{type(error).__name__}: {text}"
    )


def raise_unless_damage(path: epath.Path, error: Exception) -> None:
    """Raises an error that is about this machine or its storage, not about the files.

    Args:
      path: of the checkpoint.
      error: of reading it.

    Raises:
      UserError: the storage cannot be reached or read, or memory or handles are used up.
    """
    if isinstance(error, OF_THIS_PROCESS):
        raise error
    by_number = isinstance(error, OSError) and error.errno in _ELSEWHERE
    if by_number or _ELSEWHERE_TEXT.search(str(error)):
        raise UserError(
            f"{path} cannot be read on this machine: {summary(error)}; this is no damage of the"
            " checkpoint; mend access, storage or memory, then rerun the same command"
        ) from error


@contextlib.contextmanager
def without_late_reports() -> Iterator[None]:
    """Hides what is reported of reads and writes that end after another one has failed.

    Orbax abandons them, so each prints a traceback that says nothing new.
    """
    before, logger = sys.unraisablehook, logging.getLogger("asyncio")

    def hook(report: "sys.UnraisableHookArgs") -> None:
        if str(report.exc_value) != "Event loop is closed":
            before(report)

    def is_new(record: logging.LogRecord) -> bool:
        return "was never retrieved" not in record.getMessage()

    sys.unraisablehook = hook
    logger.addFilter(is_new)
    try:
        yield
    finally:
        sys.unraisablehook = before
        logger.removeFilter(is_new)
