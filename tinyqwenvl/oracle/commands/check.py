"""``oracle check``: a porter's function, run on a stage's recorded inputs."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...cli import Parser
from ...errors import UserError
from .. import report
from ..check import check, inputs_of
from ..diff import BANDS
from ..readers import open_dump

HELP = """\
usage: tinyqwenvl oracle check STAGE FILE.py:FUNCTION DUMP

Call FUNCTION with the recorded inputs of STAGE in DUMP, and check its result.
docs/oracle.md has an example.

  --call N              the N-th call of the stage, from 0
  --precision P         in which the function computes
  --show                only list the arguments that FUNCTION gets
"""


def run(argv: list[str]) -> int:
    """``oracle check``."""
    p = Parser("tinyqwenvl oracle check", HELP)
    p.add_argument("stage")
    p.add_argument("function", nargs="?")
    p.add_argument("dump", nargs="?")
    p.add_argument("--call", type=int, default=0)
    p.add_argument("--precision", choices=tuple(BANDS))
    p.add_argument("--show", action="store_true")
    args = p.parse_intermixed_args(argv)
    if args.show and args.dump is None:
        args.dump, args.function = args.function, None
    if args.dump is None or (args.function is None and not args.show):
        raise UserError("give a stage, FILE.py:FUNCTION and a dump")
    dump = open_dump(args.dump)
    if args.show:
        for name, array in inputs_of(args.stage, dump, args.call).items():
            print(f"{name}: {array.dtype} {list(array.shape)}")
        return 0
    verdict = check(args.stage, _function(args.function), dump, args.call, args.precision)
    print(report.HEAD)
    print(report.row(verdict, sys.stdout.isatty()))
    return int(verdict.bad)


def _function(where: str) -> Callable[..., Any]:
    """``FILE.py:NAME`` -> the function."""
    file, _, name = where.rpartition(":")
    if not file or not Path(file).is_file():
        raise UserError(f"{where[:200]}: write FILE.py:FUNCTION, with a file that exists")
    try:
        found = runpy.run_path(file)
    except (Exception, SystemExit) as error:  # the porter's program can fail in any way
        raise UserError(f"{file} cannot be run: {type(error).__name__}: {error}") from None
    if not callable(found.get(name)):
        raise UserError(f"{file} has no function called {name}")
    function = found[name]

    def call(*given: Any) -> Any:
        try:
            return function(*given)
        except (Exception, SystemExit) as error:
            raise UserError(f"{where} fails: {type(error).__name__}: {error}") from None

    return call
