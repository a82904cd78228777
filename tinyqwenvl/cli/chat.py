"""``run --chat``: a conversation, until /exit or the end of the input."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import count
from typing import Any

from ..conversation import Conversation
from ..errors import UserError
from ..media import open_image
from ..model import Model
from ..sampling import Sampling
from ..video import open_video
from .answer import say
from .embedded import SCENES, note_probability, note_turn, note_what_is_shown, pair_limit
from .report import confidence, in_words
from .request import TO_RGB
from .shared import complain, note

COMMANDS = """\
/image PATH         add an image to the next message
/video PATH [FPS]   add a video sampled at FPS frames per second, or a folder of frames
/clear              start again, keeping only the system prompt
/exit               quit (or Ctrl-D, the end of the input)"""


def chat(
    args: argparse.Namespace, model: Model, sampling: Sampling, first: list[dict[str, Any]]
) -> None:
    """Run turns until the user quits; the KV cache keeps the conversation."""
    talk = Conversation(model, args.system)
    reading: dict[str, Any] = {"min_pixels": args.min_pixels, "to_rgb": TO_RGB[args.alpha]}
    embedded = args.model is None
    if embedded:
        note(SCENES)

    turns = count()

    def reason() -> str | None:
        return talk.generation.finish_reason if talk.generation else None

    def speak(items: list[dict[str, Any]]) -> bool:
        drawn = sampling
        if sampling.seed is not None:  # changes per turn, reproducible per conversation
            drawn = replace(sampling, seed=sampling.seed + next(turns))
        most = args.max_pixels
        if embedded:
            turn = 1 + sum(message["role"] == "user" for message in talk.messages)
            note_turn(turn)
            items, most = pair_limit(args, model, items)
            if turn == 1 or most != args.max_pixels:
                note_what_is_shown(items, lowered=most != args.max_pixels)
        with closing(talk.say(items, args.max_tokens, drawn, max_pixels=most, **reading)) as tokens:
            said = say(model, tokens, reason, args.stop, lambda: None, stream=True)
        generation = talk.generation
        made = generation.probabilities[: len(said["token_ids"])] if generation else []
        probability = confidence(made)
        if embedded:
            note_probability(said["text"], probability)
        if args.verbose and generation:
            if drawn.temperature:
                note(f"seed {drawn.seed}")
            spent = ", ".join(f"{n} {s:.2f}" for n, s in generation.timings.items())
            note(f"{len(said['token_ids'])} tokens, {said['finish_reason']}; "
                 f"{in_words(probability)}; seconds: {spent}; "
                 f"{talk.cache.length} tokens in the cache")  # fmt: skip
        return bool(said["token_ids"]) or said["finish_reason"] != "interrupt"

    converse(talk, first, speak)


def converse(
    conversation: Conversation,
    first: Sequence[dict[str, Any]],
    speak: Callable[[list[dict[str, Any]]], bool],
) -> None:
    """Read lines, run commands, and let ``speak`` answer the rest; an error affects only its line.

    ``first`` are items for the first message; if they include a text, it is sent at once. ``speak``
    returns whether it gave an answer; if not, the images and videos wait for the next turn.
    """
    waiting = list(first)
    if any(item.get("type") == "text" for item in waiting):
        waiting = _turn(waiting[:-1], waiting[-1], speak)
    for line in _lines():
        try:
            if line.startswith("/"):
                waiting = _obey(line, conversation, waiting)
            elif line.strip():
                waiting = _turn(waiting, {"type": "text", "text": line}, speak)
        except EOFError:
            return
        except UserError as error:
            complain(error)


def _turn(
    waiting: list[dict[str, Any]], text: dict[str, Any], speak: Callable
) -> list[dict[str, Any]]:
    """Answer one turn; Ctrl-C ends it. Returns the items that wait for the next turn."""
    try:
        return [] if speak([*waiting, text]) else waiting
    except KeyboardInterrupt:
        complain(None)
    except UserError as error:
        dropped = "; its images and videos are dropped" if waiting else ""
        complain(f"{error}{dropped}")
        return []
    return waiting


def _lines() -> Iterator[str]:
    if sys.stdin is None:  # closed by whoever started us
        return
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")
    prompt = "> " if sys.stdin.isatty() else ""
    if prompt:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 (editing and history in input())
        print(COMMANDS, file=sys.stderr)
    with contextlib.suppress(EOFError):
        while True:
            yield input(prompt)


def _obey(
    line: str, conversation: Conversation, waiting: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Run a command; returns the items that wait for a text. Raises EOFError on /exit."""
    try:
        if sys.platform == "win32":  # a backslash is not an escape there
            command, *words = (w.strip('"') for w in shlex.split(line, posix=False))
        else:
            command, *words = shlex.split(line)
    except ValueError as error:
        raise UserError(f"{line[:100]}: {error}") from None
    if command == "/exit" and not words:
        raise EOFError
    if command == "/clear" and not words:
        conversation.clear()
        return []
    if command == "/image" and len(words) == 1:
        open_image(words[0])  # so that this line raises the error, not the next
        return [*waiting, {"type": "image", "image": words[0]}]
    if command == "/video" and len(words) in (1, 2):
        open_video(words[0])
        item: dict[str, Any] = {"type": "video", "video": words[0]}
        try:
            return [*waiting, item | ({"fps": float(words[1])} if words[1:] else {})]
        except ValueError:
            raise UserError(f"{words[1][:100]} frames per second: give a number") from None
    known = "/image PATH, /video PATH [FPS], /clear, /exit"
    raise UserError(f"unknown command {line[:100]}; use {known}")
