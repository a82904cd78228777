"""Select the command: ``tinyqwenvl COMMAND``, also ``python -m tinyqwenvl COMMAND``."""

from __future__ import annotations

import importlib
import sys

from ..errors import UserError
from .shared import Parser, command

COMMANDS = {
    "run": ("tinyqwenvl.cli.run", "ask a model about images"),
    "shapes": ("tinyqwenvl.shapes.__main__", "print every stage's shape and cost, without weights"),
    "oracle": ("tinyqwenvl.oracle.__main__", "find the first stage where a port diverges, and why"),
}
HELP = f"""\
usage: tinyqwenvl COMMAND ...      (or: python -m tinyqwenvl COMMAND ...)

Qwen2-VL and Qwen2.5-VL from scratch in NumPy.

{chr(10).join(f"  {name:10} {what}" for name, (_, what) in COMMANDS.items())}

For details: tinyqwenvl COMMAND --help. Version: tinyqwenvl --version.
"""


def dispatch(argv: list[str] | None) -> int:
    """Call the command's module with the remaining arguments."""
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] in COMMANDS:
        module, _ = COMMANDS[words[0]]
        return importlib.import_module(module).main(words[1:])
    if words and not words[0].startswith("-"):
        raise UserError(f"unknown command {words[0][:200]}; use one of {', '.join(COMMANDS)}")
    Parser("tinyqwenvl", HELP).parse_args(words or ["--help"])
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the return value is the exit code."""
    return command(dispatch, argv)
