"""``run --chat``: one turn after another, until /exit or the end of the input."""

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
/image PATH         show an image with the next words
/video PATH [FPS]   show a clip, looked at FPS times a second, or a folder of frames
/clear              forget everything but the system prompt
/exit               end (so does the end of the input, Ctrl-D)"""


def chat(
    args: argparse.Namespace, model: Model, sampling: Sampling, first: list[dict[str, Any]]
) -> None:
    """Turns until the user ends them, each with what was said before in the cache."""
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
        if sampling.seed is not None:  # another one each turn, the same in the same conversation
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
    """Read lines, obey commands, and let ``speak`` answer all else; an error costs its line only.

    ``first`` are items to show with the first words; when a text is among them it is said at once.
    ``speak`` tells whether anything was said; if not, what was to be shown waits for the next turn.
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
    """One answer; Ctrl-C ends it, and the conversation goes on. Returns what still waits."""
    try:
        return [] if speak([*waiting, text]) else waiting
    except KeyboardInterrupt:
        complain(None)
    except UserError as error:
        dropped = "; what was to be shown is dropped" if waiting else ""
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
    """Do what a command says; returns the items that wait for words. EOFError: it is the end."""
    try:
        if sys.platform == "win32":  # where a backslash is no escape
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
        open_image(words[0])  # so that this line is refused, not the next
        return [*waiting, {"type": "image", "image": words[0]}]
    if command == "/video" and len(words) in (1, 2):
        open_video(words[0])
        item: dict[str, Any] = {"type": "video", "video": words[0]}
        try:
            return [*waiting, item | ({"fps": float(words[1])} if words[1:] else {})]
        except ValueError:
            raise UserError(f"{words[1][:100]} frames a second: give a number") from None
    known = "/image PATH, /video PATH [FPS], /clear, /exit"
    raise UserError(f"{line[:100]} is no command; known are {known}")
