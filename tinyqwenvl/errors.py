"""UserError, the one exception for bad input, and warnings about a checkpoint."""

import warnings


class UserError(ValueError):
    """Bad input: one line says what is wrong and what to do about it.

    The command line prints the line and exits with code 2.
    """


class CheckpointWarning(UserWarning):
    """A checkpoint was loaded, but its files contradict each other or are incomplete."""


def note(message: str) -> None:
    """Warn in one line about how a checkpoint was read; the command line shows a note."""
    warnings.warn(message, CheckpointWarning, stacklevel=4)
