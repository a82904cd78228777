"""``oracle explain``: the known bug that reproduces a candidate."""

from __future__ import annotations

import json

from ...cli import Parser
from .. import report
from ..diagnose import diagnose
from ..diff import BANDS, compare
from ..explain import explain
from ..readers import open_dump, read_map
from ..row_order import undone
from .checkpoint import model_of

HELP = """\
usage: tinyqwenvl oracle explain [OPTIONS] REFERENCE CANDIDATE

Name the known bug that, injected into our own model, reproduces the candidate.
(diff does so too.) Exit code 0: nothing to explain, or explained; 1: not.

  -m, --model DIR_OR_ID the checkpoint
  --precision P  --map FILE  --json   as in diff
"""


def run(argv: list[str]) -> int:
    """``oracle explain``."""
    p = Parser("tinyqwenvl oracle explain", HELP)
    p.add_argument("reference")
    p.add_argument("candidate")
    p.add_argument("-m", "--model")
    p.add_argument("--precision", choices=tuple(BANDS))
    p.add_argument("--map")
    p.add_argument("--json", action="store_true")
    args = p.parse_args(argv)
    reference = open_dump(args.reference)
    candidate = open_dump(args.candidate, read_map(args.map) if args.map else None)
    found = compare(reference, candidate, args.precision)
    model = model_of(reference, args.model)
    reasons = explain(found, model)
    if (ordered := undone(found.reference, found.candidate)) is not None:
        again = compare(found.reference, ordered, args.precision)
        reasons = sorted(reasons + explain(again, model), key=lambda line: -line["score"])[:5]
    found.explanation = reasons
    found.diagnosis = diagnose(found, model)
    if args.json:
        print(json.dumps(reasons, indent=1))
    elif found.first is None:
        print(f"all {len(found.compared)} stages agree: nothing to explain")
    else:
        print("\n".join([f"first: {found.first.name}", *report.explanation(found)]))
    return int(found.first is not None and not reasons)
