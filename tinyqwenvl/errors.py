"""The one exception a user should ever see."""


class UserError(ValueError):
    """Something given to us is wrong: one line says what it is and what to do about it.

    The command line prints the line and exits with code 2.
    """
