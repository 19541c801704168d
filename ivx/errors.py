"""The error that a user can mend."""


class UserError(ValueError):
    """What was given cannot be used; the message says what is wrong, what was expected, what to do.

    Commands print it as one sentence and exit with 2.
    """
