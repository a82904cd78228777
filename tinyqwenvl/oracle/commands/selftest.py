"""``oracle selftest``: every injected bug is caught by a vector, and named."""

from __future__ import annotations

import json

from ...cli import Parser
from ..mutants import find_mutant
from ..selftest import as_line, conclusion, cores, selftest

HELP = """\
usage: tinyqwenvl oracle selftest [--json] [MUTANT...]

Inject every known bug (mutant) in turn; report whether a vector catches it, and
whether the oracle names it. The last line counts both. Exit code 1: no vector
catches some mutant.
"""


def run(argv: list[str]) -> int:
    """``oracle selftest``."""
    p = Parser("tinyqwenvl oracle selftest", HELP)
    p.add_argument("mutants", nargs="*")
    p.add_argument("--json", action="store_true")
    args = p.parse_args(argv)
    mutants = [find_mutant(name).name for name in args.mutants]
    results = []
    for result in selftest(mutants, cores()):
        results.append(result)
        if not args.json:
            print(as_line(result), flush=True)
    if args.json:
        print(json.dumps([vars(result) for result in results], indent=1))
    else:
        print(conclusion(results))
    return int(not all(result.killed_by for result in results))
