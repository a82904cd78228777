"""Messages -> the pieces of a prompt, which the tokenizer turns into ids.

Special tokens that the template writes are :class:`SpecialToken`; all else is text, and what a user
typed stays text even when it looks like a special token.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .config import read_json, read_text
from .errors import UserError
from .tokenizer import ADDED_TOKENS, SpecialToken

SYSTEM_PROMPT = "You are a helpful assistant."
EMPTY_PROMPT = "the prompt is empty; say what you want to know"  # of an error

IM_START, IM_END = SpecialToken("<|im_start|>"), SpecialToken("<|im_end|>")
VISION_START, VISION_END = SpecialToken("<|vision_start|>"), SpecialToken("<|vision_end|>")
IMAGE_PAD, VIDEO_PAD = SpecialToken("<|image_pad|>"), SpecialToken("<|video_pad|>")
_ADDED = re.compile("(" + "|".join(map(re.escape, ADDED_TOKENS)) + ")")


# ------------------------------------------------------------------ the published chat template


def media_kind(item: dict[str, Any]) -> str:
    """What an item of a message's content is: "image", "video" or "text"."""
    held = {key for key, value in item.items() if value is not None}  # None: a table's empty cell
    if item.get("type") in ("image", "image_url") or held & {"image", "image_url"}:
        return "image"
    if item.get("type") in ("video", "video_url") or held & {"video", "video_url"}:
        return "video"
    if "text" in held:
        return "text"
    raise UserError(f"a content item needs image, video or text; this one has {', '.join(item)}")


def render(
    messages: Sequence[dict[str, Any]],
    add_generation_prompt: bool = True,
    add_vision_id: bool = False,
) -> list[str]:
    """The published multimodal template in Python: messages -> pieces, media as one placeholder.

    ``messages`` are HF's: ``{"role": str, "content": str or [{"type": "image" | "text", ...}]}``.
    ``add_vision_id`` writes "Picture 1: " before each image, counting through the conversation.
    """
    pieces: list[str] = []
    count = {"image": 0, "video": 0}
    all_items(messages)  # refuses what is no conversation
    if messages and _role(messages[0]) != "system":
        pieces += [IM_START, f"system\n{SYSTEM_PROMPT}", IM_END, "\n"]
    for message in messages:
        pieces += [IM_START, f"{_role(message)}\n"]
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


def _role(message: dict[str, Any]) -> str:
    try:
        return message["role"]
    except (KeyError, TypeError):
        raise UserError("a message is a dict with 'role' and 'content'") from None


def all_items(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The content items of a whole conversation, in order."""
    if not isinstance(messages, (list, tuple)):
        raise UserError("messages are a list of dicts with 'role' and 'content'")
    return [item for message in messages for item in content_items(message)]


def content_items(message: dict[str, Any]) -> list[dict[str, Any]]:
    """A message's content as a list of items; a string is one text item."""
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, (list, tuple)) or not all(isinstance(i, dict) for i in content):
        raise UserError("the content of a message is a string or a list of items (dicts)")
    return list(content)


def obey(pieces: Sequence[str]) -> list[str]:
    """Pieces in which special tokens written inside text are special tokens too.

    transformers reads every prompt so; a user's text is then no longer mere data.
    """
    obeyed: list[str] = []
    for piece in pieces:
        parts = [piece] if isinstance(piece, SpecialToken) else _ADDED.split(piece)
        obeyed += [SpecialToken(part) if part in ADDED_TOKENS else part for part in parts if part]
    return obeyed


def expand(pieces: Sequence[str], placeholder: SpecialToken, counts: Sequence[int]) -> list[str]:
    """Repeat the i-th ``placeholder`` ``counts[i]`` times: one for every image token."""
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


# ------------------------------------------------------------------ other chat templates

PUBLISHED_TEMPLATE = "a0bc6f6fc7a29a80017a433e8f03a1cc1236e838a944a2d034295a60c4f2fddb"  # SHA-256
_TYPED = "\ue000"  # stands for "<" in what the user typed while another template is rendered


def load_template(directory: Path) -> str | None:
    """The chat template of a directory when it is not the published one, else None.

    ``tokenizer_config.json`` is not asked: the template published there knows no images.
    """
    template = read_json(directory / "chat_template.json").get("chat_template")
    if (directory / "chat_template.jinja").exists():
        template = read_text(directory / "chat_template.jinja")
    if template is None:
        return None
    if not isinstance(template, str):
        raise UserError(f"{directory / 'chat_template.json'}: its chat_template is not a text")
    published = hashlib.sha256(template.strip().encode()).hexdigest() == PUBLISHED_TEMPLATE
    return None if published else template


def render_with_jinja(
    template: str, messages: Sequence[dict[str, Any]], add_vision_id: bool = False
) -> list[str]:
    """Render another template with jinja2, and find the special tokens that it wrote."""
    try:
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise UserError(
            "this checkpoint has a chat template of its own: pip install jinja2"
        ) from None

    def refuse(message: str) -> None:
        raise UserError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    try:
        compiled = environment.from_string(template)
        text = compiled.render(
            messages=_typed(messages), add_generation_prompt=True, add_vision_id=add_vision_id
        )
    except Exception as error:  # a template is a program: it can fail in any way
        raise UserError(f"the chat template of this checkpoint fails: {error}") from None
    return [
        piece if isinstance(piece, SpecialToken) else piece.replace(_TYPED, "<")
        for piece in obey([text])
    ]


def _typed(value: Any) -> Any:
    """Messages in which no text can be taken for a special token."""
    if isinstance(value, str):
        return value.replace("<", _TYPED)
    if isinstance(value, dict):
        return {name: _typed(item) for name, item in value.items()}
    return [_typed(item) for item in value] if isinstance(value, (list, tuple)) else value
