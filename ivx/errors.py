"""Exceptions that end a command early: an error of the user's input, and a request to stop."""

import contextlib
from collections.abc import Iterator


class UserError(ValueError):
    """Input that cannot be used; the message says what is wrong, what was expected, what to do.

    Commands print it as one sentence and exit with code 2.
    """


class Interrupted(Exception):
    """A command was asked to stop; the message says what is kept, such as the step of a run.

    Commands print it with the command that goes on, and exit with `exit_code`.

    Args:
      message: what is kept.
      exit_code: `EXIT_CODE`, or `BY_HAND` after Ctrl-C, so that a loop of restarts ends.
    """

    EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: a temporary failure, try again
    BY_HAND = 130  # what shells report for SIGINT

    def __init__(self, message: str, exit_code: int = EXIT_CODE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextlib.contextmanager
def keeping(kept: str) -> Iterator[None]:
    """Turns Ctrl-C inside a `with` block into `Interrupted`.

    Args:
      kept: what is kept of the work, such as "nothing was written to DIR".
    """
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(f"stopped by Ctrl-C: {kept}", Interrupted.BY_HAND) from error
