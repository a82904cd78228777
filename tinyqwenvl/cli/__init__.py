"""The command line: the commands of ``tinyqwenvl``, and the code that they share.

``main`` selects the command. ``run`` answers one question; ``request`` parses its arguments.
``chat`` holds a conversation. ``boxes`` implements ``--boxes``. ``progress`` and ``report`` write
to stderr. ``embedded`` knows the limits of the embedded checkpoint. ``stdin`` reads piped text and
images. ``shared`` holds errors, exit codes, notes and file output.
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
