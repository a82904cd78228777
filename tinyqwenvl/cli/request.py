"""Parse the arguments of ``run``: images, videos, prompt and sampling."""

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

Ask Qwen2-VL or Qwen2.5-VL. IMAGE: a file, or - for stdin. No arguments: a demo.
PROMPT: default "describe", for two images "What changed?"; piped text is added.

  -m, --model DIR_OR_ID     a checkpoint; default: the small embedded one
  -s, --system TEXT         the system prompt
  --video PATH  --fps F     a video sampled at F frames per second (default 2),
                            or a folder of frames that were sampled at F
  --chat                    a conversation; /image, /video, /clear, /exit
  -n, --max-tokens N        generate at most N tokens (default 256)
  --stop TEXT               end before TEXT; may be given several times
  --min-pixels N  --max-pixels N    enlarge smaller images, shrink larger ones
  --alpha white|drop        composite transparency onto white (default), or not
  --parse-special           parse special tokens typed in the prompt
  --temperature T           0: greedy decoding (default); 1: plain sampling
  --top-k K  --top-p P      sample from the K best tokens, from the nucleus P
  --repetition-penalty R    over 1: avoid tokens of the prompt and the answer
  --seed N                  make sampling reproducible
  --use-generation-config   use generation_config.json; options override it
  --boxes OUT.png           draw the answer's boxes and points on the image
  --json  --no-stream       print one JSON object; print the text at the end
  --check-finite            name the first stage that produces NaN or infinity
  -v, --verbose             settings, times, memory (also -h, --help, --version)
"""
TO_RGB = {"white": media.rgb, "drop": compat.drop_alpha}
SAMPLING = ("temperature", "top_k", "top_p", "repetition_penalty", "seed")


def parser() -> Parser:
    """The argument parser of ``run``."""
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
    """Split the words into input files and a prompt, or None if there is no prompt.

    All words but the last are inputs. The last is an input too if it is a file, is named like one,
    or is a folder that is written as a path or stands alone. Raises UserError for an empty prompt.
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
    """Move the videos among the words to ``args.video``, with a note.

    The first bytes of a file, or the suffix of a name, identify a video. Animated images stay
    images, and only their first frame is used.
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
            note(f"{word} is used as a video, like --video {word}")


def _is_video(word: str) -> bool:
    if os.path.isfile(word):
        kind = kind_of_file(word)
        return kind.medium == "video" if kind is not None else named_like_a_video(word)
    return named_like_a_video(word) and not word.lower().startswith("data:")


def user_items(args: argparse.Namespace, piped: str) -> list[dict[str, Any]]:
    """The content of the user's message: images, videos, prompt and piped text."""
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
    """The sampling options that were given, checked before the slow part begins."""
    if args.max_tokens < 1:
        raise UserError(f"-n {args.max_tokens}: the number of tokens must be at least 1")
    if args.fps is not None and not args.video:
        raise UserError("--fps needs a --video")
    if not all(args.stop):
        raise UserError("--stop needs a text; an empty one would end every answer immediately")
    asked = {name: getattr(args, name) for name in SAMPLING if getattr(args, name) is not None}
    Sampling(**asked)
    return asked


def choose_sampling(args: argparse.Namespace, asked: dict[str, Any], model: Model) -> Sampling:
    """The sampling settings: options, then the checkpoint's if requested; always with a seed."""
    sampling = Sampling(**asked)
    if args.use_generation_config:
        sampling = published(model.config.generation, **asked)
        if left_out := not_followed(model.config.generation):
            note(f"generation_config.json also sets {', '.join(left_out)}, which is ignored")
    idle = {"top_k", "top_p", "seed"} & set(asked)
    if idle and not sampling.temperature:
        names = ", ".join("--" + name.replace("_", "-") for name in sorted(idle))
        note(f"{names} without --temperature: ignored, decoding is greedy")
    if sampling.temperature and sampling.seed is None:
        sampling = replace(sampling, seed=secrets.randbits(32))
    return sampling
