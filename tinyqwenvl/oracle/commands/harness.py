"""``oracle harness``: run the unit vectors against another program."""

from __future__ import annotations

import json

from ...cli import Parser
from ...errors import UserError
from .. import report
from ..explain import explain_answers
from ..harness import TIMEOUT, harness, report_text

HELP = """\
usage: tinyqwenvl oracle harness [OPTIONS] -- COMMAND [WORD...]

Start COMMAND and send it the unit vectors: one JSON object per line on stdin,
one answer per line on stdout (docs/vectors.md). Wrong answers are explained.

  --families A,B        only these; default: all
  --timeout S           seconds to wait for an answer; default 10
  --json                one JSON object
"""


def run(argv: list[str]) -> int:
    """``oracle harness``."""
    p = Parser("tinyqwenvl oracle harness", HELP)
    p.add_argument("--families")
    p.add_argument("--timeout", type=float, default=TIMEOUT)
    p.add_argument("--json", action="store_true")
    end = argv.index("--") if "--" in argv else len(argv)
    args, command_line = p.parse_args(argv[:end]), argv[end + 1 :]
    if not command_line:
        raise UserError("name the program after --: oracle harness -- node port.js")
    families = args.families.split(",") if args.families is not None else None
    found = harness(command_line, families, args.timeout)
    explanation = explain_answers(found.answers) if found.failed else []
    if args.json:
        counts = {family: vars(count) for family, count in found.families.items()}
        failures = [failure.id for failure in found.failures]
        about = {"families": counts, "failed": failures, "notes": found.notes}
        print(json.dumps(about | {"explanation": explanation}, indent=1))
    else:
        for line in report.reasons(explanation):
            print(line)
        print(report_text(found))
    return int(found.failed > 0 or found.passed == 0)
