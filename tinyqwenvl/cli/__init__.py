"""The command line: ``run`` in :mod:`.run`, its parts beside it, and what all commands share.

``main``: which command. ``run``: one question and its answer. ``request``: words and options ->
what is asked. ``chat``: many turns. ``boxes``: ``--boxes``. ``progress`` and ``report``: what
stderr shows. ``embedded``: what the checkpoint in the package has learnt, and notes on what it has
not. ``stdin``: piped text and images. ``shared``: errors, exit codes, notes, files.
"""

from .shared import (
    BAD_INPUT,
    INTERRUPTED,
    Parser,
    command,
    complain,
    note,
    one_line,
    version,
    write_bytes,
    write_text,
)

__all__ = [
    "BAD_INPUT",
    "INTERRUPTED",
    "Parser",
    "command",
    "complain",
    "note",
    "one_line",
    "version",
    "write_bytes",
    "write_text",
]
