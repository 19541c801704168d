"""What ends a command early: an error that the user can mend, an order to stop."""


class UserError(ValueError):
    """What was given cannot be used; the message says what is wrong, what was expected, what to do.

    Commands print it as one sentence and exit with 2.
    """


class Interrupted(Exception):
    """A run was told to end, and saved what it had; the message says at which step.

    Commands print it and exit with `EXIT_CODE`: the same command goes on.
    """

    EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, try again
