"""Words and options of ``run`` -> what is asked: images, videos, prompt, sampling."""

from __future__ import annotations

import argparse
import os
import secrets
from dataclasses import replace
from typing import Any

from .. import compat, media
from ..chat import EMPTY_PROMPT
from ..errors import UserError
from ..media_kinds import kind_of_file, named_like_a_file, named_like_a_video
from ..model import EXAMPLE_IMAGE, Model
from ..sampling import Sampling, not_followed, published
from .shared import Parser, note
from .stdin import image_on_stdin, is_video

HELP = """\
usage: tinyqwenvl run [OPTIONS] [IMAGE|VIDEO...] [PROMPT]

Ask Qwen2-VL or Qwen2.5-VL. IMAGE: a file, or - for stdin. No words: an example.
PROMPT: by default "describe", of two images "What changed?"; add to it by pipe.

  -m, --model DIR_OR_ID     a checkpoint; default: the small one in the package
  -s, --system TEXT         the system prompt
  --video PATH  --fps F     a clip, looked at F times a second (default 2), or a
                            folder of frames taken at that rate
  --chat                    turn after turn; /image, /video, /clear, /exit
  -n, --max-tokens N        end after N tokens; default 256
  --stop TEXT               end before TEXT; may be given several times
  --min-pixels N  --max-pixels N    enlarge smaller images, shrink larger ones
  --alpha white|drop        lay transparency on white (default), or ignore it
  --parse-special           obey special tokens typed in the text
  --temperature T           0: the likeliest token (default); 1: draw as likely
  --top-k K  --top-p P      draw from the K likeliest, from those that make up P
  --repetition-penalty R    over 1: rather not what was said or asked before
  --seed N                  draw the same again
  --use-generation-config   settings of generation_config.json; options win
  --boxes OUT.png           draw the answer's boxes and points on the image
  --json  --no-stream       one JSON object; the text only when it is complete
  --check-finite            name the first stage that yields NaN or infinity
  -v, --verbose             settings, times, memory (also -h, --help, --version)
"""
TO_RGB = {"white": media.rgb, "drop": compat.drop_alpha}
SAMPLING = ("temperature", "top_k", "top_p", "repetition_penalty", "seed")


def parser() -> Parser:
    """The arguments."""
    p = Parser("tinyqwenvl run", HELP)
    p.add_argument("words", nargs="*")
    p.add_argument("-m", "--model")
    p.add_argument("-s", "--system")
    p.add_argument("--video", action="append", default=[])
    p.add_argument("--fps", type=float)
    p.add_argument("--chat", action="store_true")
    p.add_argument("-n", "--max-tokens", type=int, default=256)
    p.add_argument("--stop", action="append", default=[])
    p.add_argument("--min-pixels", type=int)
    p.add_argument("--max-pixels", type=int)
    p.add_argument("--alpha", choices=TO_RGB, default="white")
    p.add_argument("--parse-special", action="store_true")
    for name, kind in zip(SAMPLING, (float, int, float, float, int), strict=True):
        p.add_argument("--" + name.replace("_", "-"), type=kind)
    p.add_argument("--use-generation-config", action="store_true")
    p.add_argument("--boxes", metavar="OUT")
    p.add_argument("--json", action="store_true")
    p.add_argument("--no-stream", action="store_true")
    p.add_argument("--check-finite", action="store_true")
    p.add_argument("-v", "--verbose", action="store_true")
    return p


def images_and_prompt(words: list[str]) -> tuple[list[str], str | None]:
    """All words but the last are inputs; so is the last when it is a file or named like one.

    A folder is an input where it is alone or written as a path. The prompt is None where none was
    given. Raises UserError for an empty prompt.
    """
    if not words:
        return [str(EXAMPLE_IMAGE)], None
    *images, last = words
    is_input = last == "-" or os.path.isfile(last) or named_like_a_file(last)
    if is_input or (os.path.exists(last) and not images):
        return words, None
    if not last.strip():
        raise UserError(EMPTY_PROMPT)
    return images, last


def take_videos(args: argparse.Namespace) -> None:
    """Move the videos among the words to ``args.video``, and say so.

    A video is a file whose first bytes say so, or a name that ends as those of videos do. Animated
    images stay images, of which the first frame is read.
    """
    inputs, prompt = images_and_prompt(args.words)
    videos = [word for word in inputs if args.words and _is_video(word)]
    if not videos:
        return
    args.words = [word for word in inputs if word not in videos]
    args.words += [] if prompt is None else [prompt]
    args.video = [*args.video, *videos]
    for word in videos:
        if os.path.exists(word):
            note(f"{word} is read as a video, as by --video {word}")


def _is_video(word: str) -> bool:
    if os.path.isfile(word):
        kind = kind_of_file(word)
        return kind.medium == "video" if kind is not None else named_like_a_video(word)
    return named_like_a_video(word) and not word.lower().startswith("data:")


def user_items(args: argparse.Namespace, piped: str) -> list[dict[str, Any]]:
    """The content of the user's message: images, videos, prompt, and what was piped in."""
    images, prompt = images_and_prompt(args.words)
    if not args.words and (args.video or args.chat):
        images = []  # no example
    opened = [image_on_stdin() if image == "-" else image for image in images]
    on_stdin = [data for data in opened if isinstance(data, bytes) and is_video(data)]
    opened = [image for image in opened if image not in on_stdin]
    rate = {} if args.fps is None else {"fps": args.fps}
    items = [{"type": "image", "image": image} for image in opened]
    items += [{"type": "video", "video": path, **rate} for path in [*args.video, *on_stdin]]
    if prompt is not None and os.path.isdir(prompt):
        note(f"{prompt} is taken as the prompt, though a folder has that name; ./{prompt} is that")
    default = "What changed?" if len(images) == 2 and not args.video else "describe"
    texts = [text for text in (prompt, piped) if text] or ([] if args.chat else [default])
    return [*items, {"type": "text", "text": "\n".join(texts)}] if texts else items


def asked_sampling(args: argparse.Namespace) -> dict[str, Any]:
    """The options on sampling that were given, checked before anything slow begins."""
    if args.max_tokens < 1:
        raise UserError(f"-n {args.max_tokens}: the number of tokens must be at least 1")
    if args.fps is not None and not args.video:
        raise UserError("--fps is of a --video; there is none")
    if not all(args.stop):
        raise UserError("--stop needs a text; an empty one would end every answer at once")
    asked = {name: getattr(args, name) for name in SAMPLING if getattr(args, name) is not None}
    Sampling(**asked)
    return asked


def choose_sampling(args: argparse.Namespace, asked: dict[str, Any], model: Model) -> Sampling:
    """The options, on top of the checkpoint's own where these are wanted; with a seed to tell."""
    sampling = Sampling(**asked)
    if args.use_generation_config:
        sampling = published(model.config.generation, **asked)
        if left_out := not_followed(model.config.generation):
            note(f"generation_config.json also sets {', '.join(left_out)}, which is not done here")
    idle = {"top_k", "top_p", "seed"} & set(asked)
    if idle and not sampling.temperature:
        names = ", ".join("--" + name.replace("_", "-") for name in sorted(idle))
        note(f"{names} without --temperature: the likeliest token is taken all the same")
    if sampling.temperature and sampling.seed is None:
        sampling = replace(sampling, seed=secrets.randbits(32))
    return sampling
