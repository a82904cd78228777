"""The command ``oracle``: record, diff, explain, check, vectors, harness, selftest, verify."""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import runpy
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..cli import Parser, command, note, write_text
from ..config import load_config
from ..errors import UserError
from ..model import Model, find, load, user_message
from ..run import images_and_prompt
from . import report
from .check import check
from .diff import BANDS, MULTIPLE, Comparison, compare, single
from .dump import Dump
from .explain import explain
from .mutants import MUTANTS, apply
from .readers import open_dump, read_map
from .record import MEASURED, SMALL, Job, fingerprint, job_from_file, record

HELP = """\
usage: tinyqwenvl oracle COMMAND ...

What is right at every stage, where a port first goes wrong, and why.

  record     run a prompt and write down every stage
  diff       compare two dumps: a verdict a stage, the first that differs
  explain    name the mistake that gives what a candidate holds
  check      run your own function on a stage's recorded inputs
  mutants    the mistakes that diff can name, and where each was seen
  vectors    copy the conformance vectors, which need no Python, to a folder
  harness    ask another program the unit vectors
  selftest   every mutant is caught by a vector, and named
  verify     a published checkpoint here against transformers

tinyqwenvl oracle COMMAND --help says more. Exit code 0: all agrees; 1:
something differs; 2: bad input.
"""
RECORD_HELP = f"""\
usage: tinyqwenvl oracle record [OPTIONS] [IMAGE...] PROMPT -o REF.safetensors

Run a prompt (none: an example) and write every stage to REF.safetensors, and to
REF.json what is known of each: shape, axes, order of rows, statistics, what it
was made of, and how far rounding alone moves it (its noise floors).

  -o, --output FILE     the dump; its name ends in .safetensors
  -m, --model DIR_OR_ID a checkpoint; default: the small one in the package
  --video PATH  --fps F a clip, or a folder of frames, after the images
  --inputs FILE         your own input_ids, pixel_values and image_grid_thw
                        (pixel_values_videos, video_grid_thw and
                        second_per_grid_ts too) in place of IMAGE and PROMPT
  --stages GLOB         only stages named so; may be given several times
  --tokens N            generate N ids too, each step a further call; default 0
  --floors LIST         noise of {",".join(MEASURED)}; or none.
                        Default: all, up to {SMALL // 1_000_000} million weights, else none
  --no-inputs           leave out what no stage gave but a stage was made of
  --dtype float64       the truth mode
  --mutant NAME         with a mistake made, to see what it looks like
  --min-pixels N  --max-pixels N   enlarge smaller images, shrink larger ones
"""
DIFF_HELP = f"""\
usage: tinyqwenvl oracle diff [OPTIONS] REFERENCE CANDIDATE

Compare dumps. Each may be .safetensors, .npz, .npy, .pt, .bin with its shape,
or a folder of such files. Keys are names of stages, those of transformers,
ONNX, llama.cpp and mlx-vlm too; a candidate may hold just some.

  -m, --model DIR_OR_ID the checkpoint, to explain what differs by running
                        {len(MUTANTS)} known mistakes (found by itself for small ones)
  --single              each stage on its own: ours on the candidate's input
  --precision P         the candidate's: {", ".join(BANDS)};
                        default: as its tensors are stored
  --multiple X          of the noise floor that is allowed; default
                        {MULTIPLE["float32"]:g} in float32, {MULTIPLE["bfloat16"]:g} in the others
  --map FILE            JSON: a name in the candidate -> the name of a stage
  --json                one JSON object; --html FILE  a page with images
  --all                 every stage in the table
  --no-explain          do not look for a reason
"""
CHECK_HELP = """\
usage: tinyqwenvl oracle check STAGE FILE.py:FUNCTION DUMP

Call FUNCTION with what STAGE was made of, as recorded in DUMP, and judge what
it returns. docs/oracle.md has the recipe.

  --call N              the N-th call of the stage, from 0
  --precision P         in which the function computes
  --show                name the arguments that it will be given, and end
"""


# ------------------------------------------------------------------ record


def record_parser() -> Parser:
    """The arguments of ``record``."""
    p = Parser("tinyqwenvl oracle record", RECORD_HELP)
    p.add_argument("words", nargs="*")
    p.add_argument("-o", "--output", required=True)
    p.add_argument("-m", "--model")
    p.add_argument("--video", action="append", default=[])
    p.add_argument("--fps", type=float)
    p.add_argument("--inputs")
    p.add_argument("--stages", action="append", default=[])
    p.add_argument("--tokens", type=int, default=0)
    p.add_argument("--floors")
    p.add_argument("--no-inputs", action="store_true")
    p.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    p.add_argument("--mutant")
    p.add_argument("--min-pixels", type=int)
    p.add_argument("--max-pixels", type=int)
    return p


def run_record(argv: list[str]) -> int:
    """``oracle record``."""
    args = record_parser().parse_intermixed_args(argv)
    if not 0 <= args.tokens <= 10_000:
        raise UserError(f"--tokens {args.tokens}: give a number from 0 to 10,000")
    floors = None if args.floors is None else args.floors.split(",")
    if floors == ["none"] or args.mutant:
        floors = []
    if unknown := [f for f in floors or () if f not in MEASURED]:
        raise UserError(f"--floors {unknown[0]}: known are {', '.join(MEASURED)}, or none")
    if args.mutant and args.mutant not in MUTANTS:
        raise UserError(f"no mutant is called {args.mutant}; `oracle mutants` lists them")
    _check_output(args.output)
    model = load(args.model, args.dtype)
    job = _job(args, model)
    stages = args.stages or ["*"]

    with apply(args.mutant):
        dump = record(
            model, job, args.output, stages, not args.no_inputs, floors, args.model or "embedded"
        )
    for glob in args.stages:
        if not any(fnmatch.fnmatchcase(e.name, glob) for e in dump):
            note(f"no stage is called {glob}")
    if not any(e.info.get("floor") for e in dump) and not args.mutant:
        note("no noise floors were measured; diff will use fixed bands (--floors float32)")
    print(f"{len(dump)} stages in {args.output}")
    return 0


def _check_output(path: str) -> None:
    """Say what is wrong with a place to write before minutes are spent."""
    target = Path(path)
    if target.suffix != ".safetensors":
        raise UserError(f"-o {path}: the name of a dump ends in .safetensors")
    if target.is_dir():
        raise UserError(f"-o {path}: that is a folder")
    if not target.parent.is_dir():
        raise UserError(f"-o {path}: there is no such folder")
    if not os.access(target.parent, os.W_OK):
        raise UserError(f"-o {path}: that folder cannot be written to")


def _job(args: argparse.Namespace, model: Model) -> Job:
    if args.inputs:
        if args.words or args.video:
            raise UserError("give IMAGE and PROMPT, or --inputs, not both")
        job = job_from_file(open_dump(args.inputs), model.config)
        return replace(job, tokens=args.tokens, forced=None)
    if args.fps is not None and not args.video:
        raise UserError("--fps is of a --video; there is none")
    images, prompt = images_and_prompt(args.words)
    if prompt is None and args.words:
        raise UserError("give a prompt after the images, in quotes")
    if args.video and not args.words:
        images = []  # no example
    messages = user_message(images, prompt or "describe")
    rate = {} if args.fps is None else {"fps": args.fps}
    clips = [{"type": "video", "video": path, **rate} for path in args.video]
    messages[0]["content"][-1:-1] = clips
    limits = {"min_pixels": args.min_pixels, "max_pixels": args.max_pixels}
    options = {name: value for name, value in limits.items() if value is not None}
    return Job(messages, tokens=args.tokens, options=options)


# ------------------------------------------------------------------ diff


def diff_parser() -> Parser:
    """The arguments of ``diff``."""
    p = Parser("tinyqwenvl oracle diff", DIFF_HELP)
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


def run_diff(argv: list[str]) -> int:
    """``oracle diff``."""
    args = diff_parser().parse_args(argv)
    if args.multiple is not None and not 1 <= args.multiple <= 1e9:
        raise UserError(f"--multiple {args.multiple}: give a number from 1")
    if args.json and args.html == "-":
        raise UserError("--json and --html - would both go to stdout; name a file for the page")
    reference = open_dump(args.reference)
    candidate = open_dump(args.candidate, read_map(args.map) if args.map else None)
    model = _model_of(reference, args.model)
    if args.single:
        if model is None:
            raise UserError("--single runs the model: give its checkpoint with -m")
        found = single(model, reference, candidate, args.precision, args.multiple)
    else:
        found = compare(reference, candidate, args.precision, args.multiple)
    if found.first is not None and not args.no_explain and not args.single:
        _explain(found, model)
    if args.html is not None:
        from .page import as_html

        write_text(args.html, as_html(found))
    if args.json:
        print(json.dumps(found.as_json(), indent=1))
    else:
        print(report.as_text(found, sys.stdout.isatty(), args.all), end="")
    return int(found.first is not None)


EXPLAIN_HELP = """\
usage: tinyqwenvl oracle explain [OPTIONS] REFERENCE CANDIDATE

Which known mistake, made in our own model, gives what the candidate holds.
(diff says so too.) Exit code 0: nothing to explain, or explained; 1: not.

  -m, --model DIR_OR_ID the checkpoint
  --precision P  --map FILE  --json   as in diff
"""


def run_explain(argv: list[str]) -> int:
    """``oracle explain``."""
    p = Parser("tinyqwenvl oracle explain", EXPLAIN_HELP)
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
    reasons = explain(found, _model_of(reference, args.model))
    if args.json:
        print(json.dumps(reasons, indent=1))
    elif found.first is None:
        print(f"all {len(found.compared)} stages agree: nothing to explain")
    else:
        lines = [f"first: {found.first.name}", *report.reasons(reasons)]
        print("\n".join(lines if reasons else [*lines, "no known mistake explains it"]))
    return int(found.first is not None and not reasons)


def _explain(found: Comparison, model: Model | None) -> None:
    try:
        found.explanation = explain(found, model)
    except UserError as error:  # the reference does not hold what a run begins with
        found.explanation = explain(found, None)
        found.notes.append(f"the known mistakes could not be tried: {error}")
    if model is None:
        found.notes.append("give the checkpoint with -m to try the known mistakes too")


def _model_of(reference: Dump, asked: str | None) -> Model | None:
    """The checkpoint that is asked for, or the one that a dump was made with, when it is small."""
    about: Any = reference.about.get("model") or {}
    known = about.get("fingerprint")
    if asked is not None:
        model = load(asked)
        if known not in (None, fingerprint(model.config)):
            raise UserError(f"{reference.source} was made with another model than {asked}")
        return model
    source = about.get("source")
    if not isinstance(source, str) or not (source == "embedded" or Path(source).is_dir()):
        return None
    from ..checkpoint import parameter_count

    place = None if source == "embedded" else source
    config = load_config(find(place))
    small = parameter_count(config) <= SMALL and fingerprint(config) == known
    return load(place) if small else None


# ------------------------------------------------------------------ the rest


def run_check(argv: list[str]) -> int:
    """``oracle check``."""
    p = Parser("tinyqwenvl oracle check", CHECK_HELP)
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
        from .check import inputs_of

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
        raise UserError(f"{where[:200]}: write FILE.py:FUNCTION, of a file that is there")
    try:
        found = runpy.run_path(file)
    except (Exception, SystemExit) as error:  # somebody's program can fail in any way
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


def run_mutants(argv: list[str]) -> int:
    """``oracle mutants``."""
    p = Parser("tinyqwenvl oracle mutants", "usage: tinyqwenvl oracle mutants [--json]\n")
    p.add_argument("--json", action="store_true")
    if p.parse_args(argv).json:
        lines = [{"mutant": m.name, "what": m.what, "report": m.report} for m in MUTANTS.values()]
        print(json.dumps(lines, indent=1))
        return 0
    for m in MUTANTS.values():
        print(f"{m.name:32} {m.what}. ({m.report})")
    return 0


VECTORS_HELP = """\
usage: tinyqwenvl oracle vectors [FOLDER]

Copy the conformance vectors to FOLDER, or say what there is of them. They are
JSON and safetensors, and need no Python; docs/vectors.md.
"""


def run_vectors(argv: list[str]) -> int:
    """``oracle vectors``."""
    from . import vectors

    p = Parser("tinyqwenvl oracle vectors", VECTORS_HELP)
    p.add_argument("folder", nargs="?")
    args = p.parse_args(argv)
    manifest = json.loads((vectors.FOLDER / "manifest.json").read_text(encoding="utf-8"))
    for line in manifest["files"]:
        print(f"{line['family']:24} {line['count']:3} cases")
    for line in manifest["models"]:
        print(f"{line['id']:32} {line['pins']}")
    if args.folder is not None:
        target = Path(args.folder)
        if target.exists():
            raise UserError(f"{args.folder} is there already; give a new name")
        shutil.copytree(vectors.FOLDER.parent, target)
        print(f"copied to {target}")
    return 0


HARNESS_HELP = """\
usage: tinyqwenvl oracle harness [OPTIONS] -- COMMAND [WORD...]

Start COMMAND and ask it the unit vectors: a JSON object a line on its stdin, an
answer a line from its stdout (docs/vectors.md). Wrong answers are explained.

  --families A,B        only these; default: all
  --timeout S           seconds to wait for an answer; default 10
  --json                one JSON object
"""


def run_harness(argv: list[str]) -> int:
    """``oracle harness``."""
    from .explain import explain_answers
    from .harness import harness, report_text

    p = Parser("tinyqwenvl oracle harness", HARNESS_HELP)
    p.add_argument("--families")
    p.add_argument("--timeout", type=float, default=10.0)
    p.add_argument("--json", action="store_true")
    end = argv.index("--") if "--" in argv else len(argv)
    args, command_line = p.parse_args(argv[:end]), argv[end + 1 :]
    if not command_line:
        raise UserError("say which program after --: oracle harness -- node port.js")
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


SELFTEST_HELP = """\
usage: tinyqwenvl oracle selftest [--json] [MUTANT...]

Make every known mistake in turn: is it caught by a vector, and named? The last
line counts both. Exit code 1 when a mutant survives.
"""


def run_selftest(argv: list[str]) -> int:
    """``oracle selftest``."""
    from .selftest import as_line, conclusion, selftest

    p = Parser("tinyqwenvl oracle selftest", SELFTEST_HELP)
    p.add_argument("mutants", nargs="*")
    p.add_argument("--json", action="store_true")
    args = p.parse_args(argv)
    if unknown := [name for name in args.mutants if name not in MUTANTS]:
        raise UserError(f"no mutant is called {unknown[0]}; `oracle mutants` lists them")
    results = []
    for result in selftest(args.mutants):
        results.append(result)
        if not args.json:
            print(as_line(result), flush=True)
    if args.json:
        print(json.dumps([vars(result) for result in results], indent=1))
    else:
        print(conclusion(results))
    return int(not all(result.killed_by for result in results))


VERIFY_HELP = """\
usage: tinyqwenvl oracle verify [OPTIONS] DIR_OR_ID

Run a checkpoint here and in transformers (which must be installed) on five
images of the package, and report ids, distances and answers, in Markdown.

  --revision R          of a hub id; default: the newest, which is then named
  --tokens N            greedy ids to compare; default 16
  -o, --output FILE     write the report there too
"""


def run_verify(argv: list[str]) -> int:
    """``oracle verify``."""
    from .verify import verify

    p = Parser("tinyqwenvl oracle verify", VERIFY_HELP)
    p.add_argument("model")
    p.add_argument("--revision")
    p.add_argument("--tokens", type=int, default=16)
    p.add_argument("-o", "--output")
    args = p.parse_args(argv)
    found = verify(args.model, args.revision, args.tokens)
    print(found.as_text(), end="")
    if args.output is not None:
        write_text(args.output, found.as_text())
    return int(not found.good)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "record": run_record,
    "diff": run_diff,
    "explain": run_explain,
    "check": run_check,
    "mutants": run_mutants,
    "vectors": run_vectors,
    "harness": run_harness,
    "selftest": run_selftest,
    "verify": run_verify,
}


def dispatch(argv: list[str] | None) -> int:
    """Hand the words after a command's name to it."""
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
