"""Exceptions that end a command early: an error of the user's input, and a request to stop."""


class UserError(ValueError):
    """Input that cannot be used; the message says what is wrong, what was expected, what to do.

    Commands print it as one sentence and exit with code 2.
    """


class Interrupted(Exception):
    """A run was asked to stop and has saved its state; the message says at which step.

    Commands print it and exit with `EXIT_CODE`; rerunning the command resumes the run.
    """

    EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: a temporary failure, try again
