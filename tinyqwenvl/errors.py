"""The one exception a user should ever see, and the notes about a checkpoint."""

import warnings


class UserError(ValueError):
    """Something given to us is wrong: one line says what it is and what to do about it.

    The command line prints the line and exits with code 2.
    """


class CheckpointWarning(UserWarning):
    """A checkpoint was loaded, but its files disagree, or leave something open."""


def note(message: str) -> None:
    """Say in one line how a checkpoint was read; the command line shows it as a note."""
    warnings.warn(message, CheckpointWarning, stacklevel=4)
