"""The command ``shapes``: print every stage's shape and cost for a prompt, without weights."""

from __future__ import annotations

import argparse
import json
import re
import sys

from ..cli import Parser, command, write_text
from ..config import Config, load_config
from ..errors import UserError
from ..media import open_image
from ..model import EXAMPLE_IMAGE, find
from ..presets import PRESETS, preset
from .drawing import as_svg
from .report import as_json, as_text, presets_json, presets_text
from .walk import walk

HELP = f"""\
usage: tinyqwenvl shapes [OPTIONS] [WIDTHxHEIGHT or IMAGE...]

Print every stage's name and shape in order, with parameters, FLOPs and bytes,
for images of these sizes. No weights are needed.

  --preset NAME         a published size, such as qwen2.5-vl-3b
  --presets             a table of all seven of them:
                        {", ".join(PRESETS[:4])},
                        {", ".join(PRESETS[4:])}
  -m, --model DIR_OR_ID a checkpoint's config.json; default: the embedded one
  --text-tokens N       all other tokens; default 49: the template (21) and a
                        one-line question
  --min-pixels N        enlarge smaller images
  --max-pixels N        shrink larger ones
  --all                 print every block, not one per kind
  --json                print JSON instead of the table
  --svg FILE            draw it as SVG, for a slide
  -h, --help  --version
"""


def parser() -> Parser:
    """The argument parser of ``shapes``."""
    p = Parser("tinyqwenvl shapes", HELP)
    p.add_argument("images", nargs="*")
    p.add_argument("--preset")
    p.add_argument("--presets", action="store_true")
    p.add_argument("-m", "--model")
    p.add_argument("--text-tokens", type=int, default=49)
    p.add_argument("--min-pixels", type=int)
    p.add_argument("--max-pixels", type=int)
    p.add_argument("--all", action="store_true")
    p.add_argument("--json", action="store_true")
    p.add_argument("--svg")
    return p


def model_of(args: argparse.Namespace) -> tuple[str, Config]:
    """The name and config that the options select."""
    if args.preset and args.model:
        raise UserError("give --preset or -m, not both")
    if args.preset:
        return args.preset.lower(), preset(args.preset.lower())
    directory = find(args.model, ["*.json"])
    return args.model or "the embedded checkpoint", load_config(directory)


def size_of(word: str) -> tuple[int, int]:
    """(width, height) in pixels, from a size such as "756x476" or an image file."""
    if match := re.fullmatch(r"(\d{1,7})[xX×](\d{1,7})", word):
        return int(match[1]), int(match[2])
    try:
        return open_image(word).size
    except UserError as error:
        raise UserError(f"{error} (a size is written like 756x476)") from None


def show(argv: list[str] | None) -> None:
    """Run the walk and print it."""
    args = parser().parse_intermixed_args(argv)
    if args.presets and (args.images or args.preset or args.model or args.svg is not None):
        raise UserError("--presets prints the table of all sizes; combine it with --json only")
    if args.presets:
        print(json.dumps(presets_json(), indent=1) if args.json else presets_text())
        return
    name, config = model_of(args)
    sizes = [size_of(word) for word in args.images or [str(EXAMPLE_IMAGE)]]
    found = walk(config, sizes, args.text_tokens, args.min_pixels, args.max_pixels)
    if args.svg is not None:
        write_text(args.svg, as_svg(name, found))
    if args.json:
        print(json.dumps(as_json(name, found), indent=1))
    elif args.svg is None:
        print(as_text(name, found, args.all))


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the return value is the exit code."""
    return command(show, argv)


if __name__ == "__main__":
    sys.exit(main())
