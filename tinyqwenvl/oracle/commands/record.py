"""``oracle record``: run a prompt and write every stage of it to a dump."""

from __future__ import annotations

import argparse
import fnmatch
import os
from dataclasses import replace
from pathlib import Path

from ...cli import Parser, note
from ...cli.request import images_and_prompt
from ...errors import UserError
from ...model import Model, load, user_message
from ...tracing import current_name
from ..dump import Dump
from ..mutants import apply, find_mutant
from ..own_weights import with_weights
from ..readers import open_dump
from ..record import MEASURED, SMALL, Job, job_from_file, record

HELP = f"""\
usage: tinyqwenvl oracle record [OPTIONS] [IMAGE...] PROMPT -o REF.safetensors

Run a prompt (none: an example) and write every stage to REF.safetensors. For
each, REF.json holds shape, axes, token order, statistics, inputs, and noise
floors (the error that rounding alone causes).

  -o, --output FILE     the dump; its name ends in .safetensors
  -m, --model DIR_OR_ID a checkpoint; default: the small one in the package
  --video PATH  --fps F a video, or a folder of frames, after the images
  --inputs FILE         your own input_ids, pixel_values and image_grid_thw
                        (pixel_values_videos, video_grid_thw and
                        second_per_grid_ts too) instead of IMAGE and PROMPT
  --weights-from FILE   the port's own weights (MLX, GGUF, safetensors, folder),
                        dequantised; may be given several times
  --stages GLOB         only stages that match; may be given several times
  --tokens N            also generate N ids, one call per step; default 0
  --floors LIST         noise of {",".join(MEASURED)}; or none.
                        Default: all, up to {SMALL // 1_000_000} million weights, else none
  --no-inputs           leave out inputs of stages that no other stage gave
  --dtype float64       compute in float64
  --mutant NAME         inject a known bug (mutant), to see its effect
  --min-pixels N  --max-pixels N   enlarge smaller images, shrink larger ones
"""


def parser() -> Parser:
    """The arguments of ``record``."""
    p = Parser("tinyqwenvl oracle record", HELP)
    p.add_argument("words", nargs="*")
    p.add_argument("-o", "--output", required=True)
    p.add_argument("-m", "--model")
    p.add_argument("--video", action="append", default=[])
    p.add_argument("--fps", type=float)
    p.add_argument("--inputs")
    p.add_argument("--weights-from", action="append", default=[])
    p.add_argument("--stages", action="append", default=[])
    p.add_argument("--tokens", type=int, default=0)
    p.add_argument("--floors")
    p.add_argument("--no-inputs", action="store_true")
    p.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    p.add_argument("--mutant")
    p.add_argument("--min-pixels", type=int)
    p.add_argument("--max-pixels", type=int)
    return p


def run(argv: list[str]) -> int:
    """``oracle record``."""
    args = parser().parse_intermixed_args(argv)
    if not 0 <= args.tokens <= 10_000:
        raise UserError(f"--tokens {args.tokens}: give a number from 0 to 10,000")
    floors = None if args.floors is None else args.floors.split(",")
    if floors == ["none"] or args.mutant:
        floors = []
    if unknown := [f for f in floors or () if f not in MEASURED]:
        raise UserError(f"--floors {unknown[0]}: known are {', '.join(MEASURED)}, or none")
    mutant = find_mutant(args.mutant).name if args.mutant else None
    _check_output(args.output)
    model = load(args.model, args.dtype)
    if args.weights_from:
        model = with_weights(model, args.weights_from)
    job = _job(args, model)
    stages = args.stages or ["*"]
    source = args.model or "embedded"
    with apply(mutant):
        dump = record(
            model, job, args.output, stages, not args.no_inputs, floors, source, args.weights_from
        )
    _note_what_is_missing(args, dump)
    print(f"{len(dump)} stages in {args.output}")
    return 0


def _note_what_is_missing(args: argparse.Namespace, dump: Dump) -> None:
    """Notes on globs that fit no stage, and on a dump without noise floors."""
    for glob in args.stages:
        if not any(fnmatch.fnmatchcase(e.name, current_name(glob)) for e in dump):
            note(f"no stage is called {glob}")
    if not any(e.info.get("floor") for e in dump) and not args.mutant:
        note("no noise floors were measured; diff will use fixed tolerances (--floors float32)")


def _check_output(path: str) -> None:
    """Fail early if the dump cannot be written."""
    target = Path(path)
    if target.suffix != ".safetensors":
        raise UserError(f"-o {path}: the name of a dump must end in .safetensors")
    if target.is_dir():
        raise UserError(f"-o {path}: that is a folder")
    if not target.parent.is_dir():
        raise UserError(f"-o {path}: there is no such folder")
    if not os.access(target.parent, os.W_OK):
        raise UserError(f"-o {path}: that folder cannot be written to")


def _job(args: argparse.Namespace, model: Model) -> Job:
    """The prompt that the arguments ask for."""
    if args.inputs:
        if args.words or args.video:
            raise UserError("give IMAGE and PROMPT, or --inputs, not both")
        job = job_from_file(open_dump(args.inputs), model.config)
        return replace(job, tokens=args.tokens, forced=None)
    if args.fps is not None and not args.video:
        raise UserError("--fps needs a --video; none is given")
    images, prompt = images_and_prompt(args.words)
    if prompt is None and args.words:
        raise UserError("give a prompt after the images, in quotes")
    if args.video and not args.words:
        images = []  # no example
    messages = user_message(images, prompt or "describe")
    rate = {} if args.fps is None else {"fps": args.fps}
    videos = [{"type": "video", "video": path, **rate} for path in args.video]
    messages[0]["content"][-1:-1] = videos
    limits = {"min_pixels": args.min_pixels, "max_pixels": args.max_pixels}
    options = {name: value for name, value in limits.items() if value is not None}
    return Job(messages, tokens=args.tokens, options=options)
