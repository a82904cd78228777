"""Render messages with the chat template: the pieces of a prompt, ready for the tokenizer.

Special tokens that the template writes are :class:`SpecialToken`; everything else is text. User
input stays text even if it is spelt like a special token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from .errors import UserError
from .messages import all_items as all_items
from .messages import as_messages, content_items, media_kind
from .tokenizer import ADDED_TOKENS, SpecialToken, Tokenizer

SYSTEM_PROMPT = "You are a helpful assistant."
EMPTY_PROMPT = "the prompt is empty; type a question or an instruction"  # an error message

IM_START, IM_END = SpecialToken("<|im_start|>"), SpecialToken("<|im_end|>")
VISION_START, VISION_END = SpecialToken("<|vision_start|>"), SpecialToken("<|vision_end|>")
IMAGE_PAD, VIDEO_PAD = SpecialToken("<|image_pad|>"), SpecialToken("<|video_pad|>")
_ADDED = re.compile("(" + "|".join(map(re.escape, ADDED_TOKENS)) + ")")


# ------------------------------------------------------------------ the published chat template


def render(
    messages: Any,
    add_generation_prompt: bool = True,
    add_vision_id: bool = False,
) -> list[str]:
    """The published chat template in Python: messages -> pieces, with a placeholder per medium.

    ``messages`` are HF's: ``{"role": str, "content": str or [{"type": "image" | "text", ...}]}``
    (:func:`messages.as_messages` lists the other accepted forms). ``add_vision_id`` writes
    "Picture 1: " before each image, numbered through the conversation.
    """
    pieces: list[str] = []
    count = {"image": 0, "video": 0}
    messages = as_messages(messages)  # raises if this is not a conversation
    if messages and messages[0]["role"] != "system":
        pieces += [IM_START, f"system\n{SYSTEM_PROMPT}", IM_END, "\n"]
    for message in messages:
        pieces += [IM_START, f"{message['role']}\n"]
        for item in content_items(message):
            kind = media_kind(item)
            if kind == "text":
                pieces.append(str(item["text"]))
                continue
            count[kind] += 1
            if add_vision_id:
                pieces.append(f"{'Picture' if kind == 'image' else 'Video'} {count[kind]}: ")
            pieces += [VISION_START, IMAGE_PAD if kind == "image" else VIDEO_PAD, VISION_END]
        pieces += [IM_END, "\n"]
    if add_generation_prompt:
        pieces += [IM_START, "assistant\n"]
    return pieces


def obey(pieces: Sequence[str], tokenizer: Tokenizer | None = None) -> list[str]:
    """Parse special tokens written inside text, so that they become special tokens too.

    transformers does this with every prompt; then a user's text can inject special tokens. The
    tokens are those of ``tokenizer``, or else Qwen's 22.
    """
    obeyed: list[str] = []
    for special, run in groupby(pieces, lambda piece: isinstance(piece, SpecialToken)):
        texts = list(run)
        if special:
            obeyed += texts
            continue
        apart = [part for text in texts for part in _split(text, tokenizer)]
        whole = _split("".join(texts), tokenizer)  # a token may span two texts
        as_tokens = [[t for t in found if isinstance(t, SpecialToken)] for found in (apart, whole)]
        obeyed += apart if as_tokens[0] == as_tokens[1] else whole
    return obeyed


def _split(text: str, tokenizer: Tokenizer | None) -> list[str]:
    if tokenizer is not None:
        return tokenizer.split(text)
    parts = _ADDED.split(text)
    return [SpecialToken(part) if part in ADDED_TOKENS else part for part in parts if part]


def expand(pieces: Sequence[str], placeholder: SpecialToken, counts: Sequence[int]) -> list[str]:
    """Repeat the i-th ``placeholder`` ``counts[i]`` times: once per image token."""
    found = sum(1 for p in pieces if isinstance(p, SpecialToken) and p == placeholder)
    if found != len(counts):
        what = "image" if placeholder == IMAGE_PAD else "video"
        raise UserError(f"the prompt has {found} {what} placeholders for {len(counts)} {what}s")
    remaining = iter(counts)
    expanded: list[str] = []
    for piece in pieces:
        here = isinstance(piece, SpecialToken) and piece == placeholder
        expanded += [piece] * next(remaining) if here else [piece]
    return expanded
