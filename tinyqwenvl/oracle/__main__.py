"""The command ``oracle``: record, diff, explain, check, vectors, harness, selftest, verify."""

from __future__ import annotations

import sys
from collections.abc import Callable

from ..cli import Parser, command
from ..errors import UserError
from .commands import check, diff, explain, harness, mutants, record, selftest, vectors, verify

HELP = """\
usage: tinyqwenvl oracle COMMAND ...

Find the first wrong stage of a port, and the bug behind it.

  record     run a prompt and record the tensors of every stage
  diff       compare two dumps: a verdict per stage, and the first that differs
  explain    name the known bug that reproduces a candidate
  check      run your own function on a stage's recorded inputs
  mutants    list the injected bugs that diff can name, and where each was seen
  vectors    copy the conformance vectors (no Python needed) to a folder
  harness    run the unit vectors against another program
  selftest   check that every injected bug is caught by a vector, and named
  verify     compare a published checkpoint here and in transformers

tinyqwenvl oracle COMMAND --help lists the options. Exit code 0: everything
agrees; 1: something differs; 2: bad input.
"""

COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "record": record.run,
    "diff": diff.run,
    "explain": explain.run,
    "check": check.run,
    "mutants": mutants.run,
    "vectors": vectors.run,
    "harness": harness.run,
    "selftest": selftest.run,
    "verify": verify.run,
}


def dispatch(argv: list[str] | None) -> int:
    """Run the subcommand that the arguments name."""
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] in COMMANDS:
        return COMMANDS[words[0]](words[1:])
    if words and not words[0].startswith("-"):
        raise UserError(f"{words[0][:200]} is no command; known are {', '.join(COMMANDS)}")
    Parser("tinyqwenvl oracle", HELP).parse_args(words or ["--help"])
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the return value is the exit code."""
    return command(dispatch, argv)


if __name__ == "__main__":
    sys.exit(main())
