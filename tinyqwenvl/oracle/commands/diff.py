"""``oracle diff``: a verdict per stage of two dumps, and what explains the first difference."""

from __future__ import annotations

import argparse
import json
import sys

from ...cli import Parser, write_text
from ...errors import UserError
from ...model import Model
from .. import report
from ..align import align, unmatched
from ..diagnose import diagnose
from ..diff import BANDS, MULTIPLE, Comparison, compare
from ..dump import Dump
from ..explain import explain
from ..mutants import MUTANTS
from ..page import as_html
from ..readers import open_dump, read_map
from ..row_order import undone
from ..single import single
from .checkpoint import model_of

HELP = f"""\
usage: tinyqwenvl oracle diff [OPTIONS] REFERENCE CANDIDATE

Compare two dumps. Each may be .safetensors, .npz, .npy, .pt, .bin with its
shape, or a folder of such files. Keys are stage names, ours or those of
transformers, ONNX, llama.cpp or mlx-vlm; a candidate may hold only some stages.

  -m, --model DIR_OR_ID the checkpoint, to explain differences by running
                        {len(MUTANTS)} injected bugs (not needed for small ones)
  --single              each stage on its own: ours on the candidate's inputs
  --precision P         in which the candidate was computed, one of
                        {", ".join(BANDS)};
                        default: from its tensors
  --multiple X          tolerance as a multiple of the noise floor; default
                        {MULTIPLE["float32"]:g} in float32, else {MULTIPLE["bfloat16"]:g}
  --map FILE            JSON: a name in the candidate -> the name of a stage
  --json                print one JSON object
  --html FILE           also write a page with images of the error
  --all                 print every stage in the table
  --no-explain          do not search for the bug
"""


def parser() -> Parser:
    """The arguments of ``diff``."""
    p = Parser("tinyqwenvl oracle diff", HELP)
    p.add_argument("reference")
    p.add_argument("candidate")
    p.add_argument("-m", "--model")
    p.add_argument("--single", action="store_true")
    p.add_argument("--precision", choices=tuple(BANDS))
    p.add_argument("--multiple", type=float)
    p.add_argument("--map")
    p.add_argument("--json", action="store_true")
    p.add_argument("--html")
    p.add_argument("--all", action="store_true")
    p.add_argument("--no-explain", action="store_true")
    return p


def run(argv: list[str]) -> int:
    """``oracle diff``."""
    args = parser().parse_args(argv)
    if args.multiple is not None and not 1 <= args.multiple <= 1e9:
        raise UserError(f"--multiple {args.multiple}: give a number from 1")
    if args.json and args.html == "-":
        raise UserError("--json and --html - would both go to stdout; name a file for the page")
    reference = open_dump(args.reference)
    candidate = open_dump(args.candidate, read_map(args.map) if args.map else None)
    model = model_of(reference, args.model)
    reference, candidate = align(reference, candidate)
    ordered = undone(reference, candidate)
    as_given, candidate = candidate, ordered or candidate
    if args.single:
        if model is None:
            raise UserError("--single runs the model: give its checkpoint with -m")
        found = single(model, reference, candidate, args.precision, args.multiple)
    else:
        found = compare(reference, candidate, args.precision, args.multiple)
    if found.first is not None and not args.no_explain and not args.single:
        _explain(found, model)
        if ordered is not None:
            found = _in_either_order(found, as_given, model, args)
    if args.html is not None:
        write_text(args.html, as_html(found))
    if args.json:
        print(json.dumps(found.as_json(), indent=1))
    else:
        print(report.as_text(found, sys.stdout.isatty(), args.all), end="")
    return int(found.first is not None)


def _in_either_order(
    found: Comparison, as_given: Dump, model: Model | None, args: argparse.Namespace
) -> Comparison:
    """The comparison with the better explanation: with the patch order undone, or as given.

    A wrong order may be the bug itself.
    """
    other = compare(found.reference, as_given, args.precision, args.multiple)
    _explain(other, model)
    scores = [max((e["score"] for e in c.explanation), default=0) for c in (found, other)]
    return other if scores[1] > scores[0] else found


def _explain(found: Comparison, model: Model | None) -> None:
    """Add the explanations of the first difference, or a note why there are none."""
    first = found.first
    if first is None:
        return
    if first.verdict == "shape" and unmatched(found.reference, found.candidate, first.name):
        found.notes.append(
            f"the rows of {first.name} cannot be matched with the reference's, so no known bug is "
            "tried"
        )
        return
    try:
        found.explanation = explain(found, model)
    except UserError as error:  # the reference does not hold what a run begins with
        found.explanation = explain(found, None)
        found.notes.append(f"the known bugs could not be tried: {error}")
    try:
        found.diagnosis = diagnose(found, model)
    except UserError:  # the same
        found.diagnosis = diagnose(found, None)
    if model is None:
        found.notes.append("give the checkpoint with -m to try the known bugs too")
