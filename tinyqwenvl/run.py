"""The command line: ``python -m tinyqwenvl.run [PICTURE...] "PROMPT"``.

The answer goes to stdout as it is made, everything else to stderr. Exit code 2: bad input.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

from .errors import UserError
from .model import EXAMPLE_PICTURE, load, user_message

EMBEDDED_NOTE = (
    "note: the embedded checkpoint knows drawn scenes only; for photographs give a published one: "
    "-m Qwen/Qwen2.5-VL-3B-Instruct (downloaded once), or -m DIRECTORY"
)


class Parser(argparse.ArgumentParser):
    """argparse with one line for what is wrong."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse."""
        raise UserError(f"{message}; see --help (after -- a prompt may begin with a dash)")


def parser() -> Parser:
    """The arguments."""
    p = Parser(
        prog="python -m tinyqwenvl.run",
        description="Ask Qwen2-VL or Qwen2.5-VL about pictures, in plain NumPy.",
        epilog="With no arguments: the example picture, described. A picture alone is described.",
    )
    p.add_argument(
        "words", nargs="*", metavar="PICTURE... PROMPT", help="pictures, then the prompt"
    )
    p.add_argument("-m", "--model", metavar="DIR_OR_ID", help="a checkpoint (default: embedded)")
    p.add_argument("-n", "--max-tokens", type=int, default=256, metavar="N", help="default 256")
    p.add_argument("--min-pixels", type=int, metavar="N", help="enlarge smaller pictures")
    p.add_argument("--max-pixels", type=int, metavar="N", help="shrink larger pictures")
    p.add_argument("--json", action="store_true", help="one JSON object instead of the text")
    return p


def pictures_and_prompt(words: list[str]) -> tuple[list[str], str]:
    """All words but the last are pictures; so is the last when it is alone or named like one."""
    if not words:
        return [str(EXAMPLE_PICTURE)], "describe"
    *pictures, last = words
    here = os.path.exists(last)
    if (_named_like_a_picture(last) and (here or not pictures)) or (here and not pictures):
        return words, "describe"
    if not last.strip():
        raise UserError("the prompt is empty; say what you want to know")
    return pictures, last


def _named_like_a_picture(word: str) -> bool:
    from PIL import Image

    return " " not in word and Path(word).suffix.lower() in Image.registered_extensions()


def answer(args: argparse.Namespace) -> None:
    """Load, prepare, generate, print."""
    if args.max_tokens < 1:
        raise UserError(f"-n {args.max_tokens}: the number of tokens must be at least 1")
    pictures, prompt = pictures_and_prompt(args.words)
    started = time.perf_counter()
    model = load(args.model)
    loaded = time.perf_counter()
    inputs = model.prepare(user_message(pictures, prompt), args.min_pixels, args.max_pixels)
    prepared = time.perf_counter()
    if args.model is None:
        print(EMBEDDED_NOTE, file=sys.stderr)

    generation, ids, text = model.generate(inputs, args.max_tokens), [], ""

    def kept():
        for token in generation:
            ids.append(token)
            yield token

    for part in model.tokenizer.stream(kept()):
        text += part
        if not args.json:
            print(part, end="", flush=True)
    if not args.json:
        print()
        return
    timings = {"load": loaded - started, "prepare": prepared - loaded, **generation.timings}
    timings["total"] = time.perf_counter() - started
    grids = inputs.image_grid_thw
    result = {
        "text": text,
        "token_ids": ids,
        "prompt_token_ids": inputs.input_ids.tolist(),
        "image_grid_thw": [] if grids is None else grids.tolist(),
        "finish_reason": generation.finish_reason,
        "timings": {name: round(seconds, 6) for name, seconds in timings.items()},
    }
    print(json.dumps(result, ensure_ascii=False))


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the return value is the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # an answer that the terminal cannot show
    try:
        answer(parser().parse_intermixed_args(argv))
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our answer went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"error: cannot write the answer: {error.strerror}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
