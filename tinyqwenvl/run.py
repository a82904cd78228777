"""The command ``run``: ask a model about images.

The answer goes to stdout as it is made, everything else to stderr. Exit code 2: bad input; 130:
interrupted, after what was said so far.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image

from . import compat, grounding, media
from .checkpoint import parameter_count
from .cli import INTERRUPTED, Parser, Piped, command, image_on_stdin, note, write_bytes
from .conversation import Conversation
from .errors import UserError
from .generate import until
from .model import EXAMPLE_IMAGE, Inputs, Model, load
from .repl import converse
from .sampling import Sampling, not_followed, published
from .tracing import check_finite, watching

HELP = """\
usage: tinyqwenvl run [OPTIONS] [IMAGE...] [PROMPT]

Ask Qwen2-VL or Qwen2.5-VL about images. Without arguments: an example.
IMAGE is a file, or - for one on stdin; piped text is added to the PROMPT.

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
EMBEDDED_NOTE = (
    "the embedded checkpoint knows drawn scenes only; for photographs give a published one: "
    "-m Qwen/Qwen2.5-VL-3B-Instruct (downloaded once), or -m DIRECTORY"
)
MANY_TOKENS = 2560  # of one image: more deserve a hint
TO_RGB = {"white": media.rgb, "drop": compat.drop_alpha}
VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv")
ICONS = ("ICO", "ICNS")  # written at a few sizes only
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


# ------------------------------------------------------------------ what is asked


def images_and_prompt(words: list[str]) -> tuple[list[str], str | None]:
    """All words but the last are images; so is the last when it is alone or named like one.

    The prompt is None where none was given.
    """
    if not words:
        return [str(EXAMPLE_IMAGE)], None
    *images, last = words
    if last == "-" or _named_like_a_image(last) or (os.path.exists(last) and not images):
        return words, None
    if not last.strip():
        raise UserError("the prompt is empty; say what you want to know")
    return images, last


def _named_like_a_image(word: str) -> bool:
    return " " not in word and Path(word).suffix.lower() in Image.registered_extensions()


def refuse_videos(words: list[str]) -> None:
    """Raise UserError when an image, or a prompt of one word, is named like a video."""
    for word in words:
        is_prompt = word == words[-1] and " " in word
        if Path(word).suffix.lower() in VIDEOS and "://" not in word and not is_prompt:
            raise UserError(f"{word} is a video; give it as --video {word}")


def user_items(args: argparse.Namespace, piped: str) -> list[dict[str, Any]]:
    """The content of the user's message: images, videos, prompt, and what was piped in."""
    images, prompt = images_and_prompt(args.words)
    if not args.words and (args.video or args.chat):
        images = []  # no example
    opened = [image_on_stdin() if image == "-" else image for image in images]
    rate = {} if args.fps is None else {"fps": args.fps}
    items = [{"type": "image", "image": image} for image in opened]
    items += [{"type": "video", "video": path, **rate} for path in args.video]
    texts = [text for text in (prompt, piped) if text] or ([] if args.chat else ["describe"])
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


# ------------------------------------------------------------------ the answer


def answer(argv: list[str] | None) -> int:
    """Load, prepare, generate, print."""
    args = parser().parse_intermixed_args(argv)
    asked = asked_sampling(args)
    images, _ = images_and_prompt(args.words)
    refuse_videos(args.words)
    if args.chat and (args.json or args.no_stream or args.parse_special or "-" in images):
        raise UserError("--chat goes with no image on stdin, --json, --no-stream, --parse-special")
    if args.boxes is not None:
        check_boxes(args, images)
    piped = None if "-" in images or args.chat else Piped()
    clock = Clock()
    with ExitStack() as stack:
        if args.check_finite:
            stack.enter_context(check_finite())
        model = load(args.model)
        clock.lap("load")
        sampling = choose_sampling(args, asked, model)
        items = user_items(args, piped.text() if piped else "")
        if args.boxes is not None:  # opened here, as it is drawn on afterwards
            items[0]["image"] = media.open_image(items[0]["image"], TO_RGB[args.alpha])
        if args.chat:
            chat(args, model, sampling, items)
            return 0
        system = [] if args.system is None else [{"role": "system", "content": args.system}]
        messages = [*system, {"role": "user", "content": items}]
        inputs = model.prepare(
            messages, args.min_pixels, args.max_pixels, args.parse_special, TO_RGB[args.alpha]
        )
        clock.lap("prepare")
        hints(args, model, inputs)
        generation = model.generate(inputs, args.max_tokens, sampling)
        drawing = stack.enter_context(progress(model, inputs))
        stream = not (args.json or args.no_stream)
        said = say(model, generation, lambda: generation.finish_reason, args.stop, drawing, stream)
    timings = {**clock.laps, **generation.timings, "total": clock.total()}
    locations = []
    if args.boxes is not None:
        locations = find_locations(model, inputs, items[0]["image"].size, said["token_ids"])
        said["boxes"] = [
            {"point" if m.is_point else "box": m.place, "label": m.label} for m in locations
        ]
    if args.json:
        print(json.dumps(as_json(said, inputs, sampling, timings), ensure_ascii=False))
    elif args.no_stream:
        print(said["text"])
    if args.verbose:
        report(args, model, inputs, sampling, said, timings)
    if locations:
        write_bytes(args.boxes, in_format(grounding.draw(items[0]["image"], locations), args.boxes))
    elif args.boxes is not None:
        note(f"no box and no point in the answer; {args.boxes} is not written")
    return INTERRUPTED if said["finish_reason"] == "interrupt" else 0


def say(
    model: Model,
    tokens: Iterable[int],
    finish_reason: Callable[[], str | None],
    stops: list[str],
    first_token: Callable[[], None],
    stream: bool,
) -> dict[str, Any]:
    """Generate; print the text as it comes, if ``stream``. Ctrl-C ends it early."""
    ids: list[int] = []
    text = ""

    def kept() -> Iterator[int]:
        for token in tokens:
            first_token()
            ids.append(token)
            yield token

    try:
        for part in until(model.tokenizer.stream(kept()), stops):
            text += part
            if stream:
                print(part, end="", flush=True)
        reason = finish_reason() or "stop"
    except KeyboardInterrupt:
        reason = "interrupt"
    except UserError:
        if text and stream:
            print(flush=True)
        raise
    if stream:
        print(flush=True)
    return {"text": text, "token_ids": ids, "finish_reason": reason}


def chat(
    args: argparse.Namespace, model: Model, sampling: Sampling, first: list[dict[str, Any]]
) -> None:
    """Turns until the user ends them, each with what was said before in the cache."""
    talk = Conversation(model, args.system)
    reading = {"min_pixels": args.min_pixels, "max_pixels": args.max_pixels}
    reading["to_rgb"] = TO_RGB[args.alpha]
    if args.model is None:
        note(EMBEDDED_NOTE)

    turns = count()

    def reason() -> str | None:
        return talk.generation.finish_reason if talk.generation else None

    def speak(items: list[dict[str, Any]]) -> bool:
        drawn = sampling
        if sampling.seed is not None:  # another one each turn, the same in the same conversation
            drawn = replace(sampling, seed=sampling.seed + next(turns))
        with closing(talk.say(items, args.max_tokens, drawn, **reading)) as tokens:
            said = say(model, tokens, reason, args.stop, lambda: None, stream=True)
        if args.verbose and talk.generation:
            if drawn.temperature:
                note(f"seed {drawn.seed}")
            spent = ", ".join(f"{n} {s:.2f}" for n, s in talk.generation.timings.items())
            note(f"{len(said['token_ids'])} tokens, {said['finish_reason']}; seconds: {spent}; "
                 f"{talk.cache.length} tokens in the cache")  # fmt: skip
        return bool(said["token_ids"]) or said["finish_reason"] != "interrupt"

    converse(talk, first, speak)


# ------------------------------------------------------------------ boxes and points


def check_boxes(args: argparse.Namespace, images: list[str]) -> None:
    """Raise UserError, before anything slow begins, when there could be nothing to write."""
    if args.chat or args.video or len(images) != 1:
        raise UserError("--boxes draws on one image: no --chat, no --video, not several images")
    target = Path(args.boxes)
    if target.suffix.lower() not in Image.registered_extensions():
        raise UserError(f"--boxes {args.boxes}: give the name of an image, such as boxes.png")
    if not target.absolute().parent.is_dir():
        raise UserError(f"--boxes {args.boxes}: there is no such directory")
    if target.exists() and not target.is_file():
        raise UserError(f"--boxes {args.boxes}: that is not a file; give another name")
    image = Path(images[0])  # that it is there is seen when it is opened
    if images[0] != "-" and target.exists() and image.exists() and target.samefile(image):
        raise UserError(f"--boxes {args.boxes}: that is the image itself; give another name")
    in_format(Image.new("RGB", (8, 8)), args.boxes)


def find_locations(
    model: Model, inputs: Inputs, size: tuple[int, int], token_ids: list[int]
) -> list[grounding.Location]:
    """The boxes and points of an answer about one image of ``size``, in its pixels."""
    ((_, rows, columns),) = grids_of(inputs.image_grid_thw)
    patch = model.config.vision.patch_size
    answer = model.tokenizer.decode(token_ids, skip_special=False)
    return grounding.locations(answer, (columns * patch, rows * patch), size)


def in_format(image: Image.Image, path: str) -> bytes:
    """The bytes of an image in the format that a name asks for. Raises UserError."""
    file, form = io.BytesIO(), Image.registered_extensions()[Path(path).suffix.lower()]
    try:
        if form in ICONS:
            raise ValueError
        image.save(file, form)
    except (OSError, KeyError, ValueError, OverflowError):
        size = f"{image.width}x{image.height} pixels"
        raise UserError(
            f"--boxes {path}: Pillow cannot write {size} as {form}; give a .png"
        ) from None
    return file.getvalue()


@contextmanager
def progress(model: Model, inputs: Inputs) -> Iterator[Callable[[], None]]:
    """A bar on stderr until the first token, when stderr is a terminal and it takes over a second.

    Yields what to call at the first token.
    """
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from tqdm import tqdm

    media = (inputs.pixel_values, inputs.pixel_values_videos)
    blocks = model.config.vision.depth * sum(pixels is not None for pixels in media)
    layers = model.config.text.num_hidden_layers
    shape = "{desc} {bar} {n}/{total}"
    bar = tqdm(total=blocks + layers, delay=1, leave=False, bar_format=shape, file=sys.stderr)

    def watch(name: str, _: Any, __: Any) -> None:
        if re.fullmatch(r"(visual\.blocks|model\.layers)\.\d+", name):
            what = "reading the images" if name.startswith("visual") else "reading the prompt"
            bar.set_description_str(what, refresh=False)  # shown by the next update
            bar.update()

    with bar, watching(watch):
        yield bar.close


def hints(args: argparse.Namespace, model: Model, inputs: Inputs) -> None:
    """What a newcomer should know before the answer."""
    vision = model.config.vision
    if args.model is None:
        note(EMBEDDED_NOTE)
    side = vision.patch_size * vision.spatial_merge_size
    for number, (t, h, w) in enumerate(grids_of(inputs.image_grid_thw), start=1):
        tokens = t * h * w // vision.merged_patches
        if tokens > MANY_TOKENS and (args.min_pixels or 0) <= MANY_TOKENS * side**2:
            note(
                f"image {number} makes {tokens:,} tokens, which takes time; "
                f"--max-pixels {MANY_TOKENS * side**2} makes at most {MANY_TOKENS:,}"
            )


# ------------------------------------------------------------------ about the answer


class Clock:
    """Seconds of one part after another."""

    def __init__(self) -> None:
        self.began = self.last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """The part ``name`` ends here."""
        now = time.perf_counter()
        self.laps[name], self.last = now - self.last, now

    def total(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self.began


def as_json(
    said: dict[str, Any], inputs: Inputs, sampling: Sampling, timings: dict[str, float]
) -> dict[str, Any]:
    """Everything about the answer; times in seconds."""
    return {
        **said,
        "prompt_token_ids": inputs.input_ids.tolist(),
        "image_grid_thw": grids_of(inputs.image_grid_thw),
        "video_grid_thw": grids_of(inputs.video_grid_thw),
        "second_per_grid_ts": list(inputs.second_per_grid_ts),
        "sampling": asdict(sampling),
        "timings": {name: round(seconds, 6) for name, seconds in timings.items()},
    }


def grids_of(grid_thw: Any) -> list[list[int]]:
    """Grids as lists; an empty one for None."""
    return [] if grid_thw is None else grid_thw.tolist()


def report(
    args: argparse.Namespace,
    model: Model,
    inputs: Inputs,
    sampling: Sampling,
    said: dict[str, Any],
    timings: dict[str, float],
) -> None:
    """What ``-v`` adds, on stderr."""
    patch = model.config.vision.patch_size
    sizes = [f"{w * patch}x{h * patch}" for _, h, w in grids_of(inputs.image_grid_thw)]
    clips = [
        f"{t * model.config.vision.temporal_patch_size} frames of {w * patch}x{h * patch}, "
        f"{t * seconds:.2f} s"
        for (t, h, w), seconds in zip(
            grids_of(inputs.video_grid_thw), inputs.second_per_grid_ts, strict=True
        )
    ]
    used = ", ".join(f"{name} {value}" for name, value in asdict(sampling).items())
    source = " (generation_config.json)" if args.use_generation_config else ""
    if source and not model.config.generation:
        source = " (there is no generation_config.json)"
    count = parameter_count(model.config)
    lines = {
        "model": f"{args.model or 'embedded'}, {model.config.model_type}, {count:,} parameters",
        "images": f"read at {', '.join(sizes)} pixels" if sizes else "none",
        "videos": f"read as {'; '.join(clips)}" if clips else "none",
        "prompt": f"{len(inputs.input_ids)} tokens",
        "sampling": (used if sampling.temperature else "the likeliest token, repetition_penalty "
                     f"{sampling.repetition_penalty}") + source,
        "answer": f"{len(said['token_ids'])} tokens, ended by {said['finish_reason']}",
        "seconds": ", ".join(f"{name} {seconds:.2f}" for name, seconds in timings.items()),
    }  # fmt: skip
    if timings["prefill"] and timings["decode"]:
        prefill = len(inputs.input_ids) / timings["prefill"]
        decode = (len(said["token_ids"]) - 1) / timings["decode"]
        lines["tokens/s"] = f"{prefill:.1f} of the prompt, {decode:.1f} of the answer"
    if peak := peak_memory():
        lines["memory"] = f"{peak / 1e6:,.0f} MB at most"
    for name, line in lines.items():
        print(f"{name:10}{line}", file=sys.stderr)


def peak_memory() -> int | None:
    """Bytes this process has held at most; None where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the return value is the exit code."""
    return command(answer, argv)


if __name__ == "__main__":
    sys.exit(main())
