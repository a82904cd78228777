"""``oracle mutants``: the bugs that can be injected, and where each was seen."""

from __future__ import annotations

import json

from ...cli import Parser
from ..mutants import MUTANTS

HELP = "usage: tinyqwenvl oracle mutants [--json]\n"


def run(argv: list[str]) -> int:
    """``oracle mutants``."""
    p = Parser("tinyqwenvl oracle mutants", HELP)
    p.add_argument("--json", action="store_true")
    if p.parse_args(argv).json:
        lines = [{"mutant": m.name, "what": m.what, "report": m.report} for m in MUTANTS.values()]
        print(json.dumps(lines, indent=1))
        return 0
    for m in MUTANTS.values():
        print(f"{m.name:32} {m.what}. ({m.report})")
    return 0
