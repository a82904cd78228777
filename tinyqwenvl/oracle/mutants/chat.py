"""The chat template and its placeholders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ... import chat
from .registry import mutant


@mutant("lmdeploy#3475; llama-cpp-python#2040")
def wrong_system_prompt():
    """Qwen2.5's system prompt instead of "You are a helpful assistant."."""
    prompt = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    return {"chat.SYSTEM_PROMPT": prompt}


@mutant("vllm#15125; mlx-swift-lm#242")
def images_before_text():
    """All images of a message are moved before its text, whatever their order."""

    def content_items(message: dict[str, Any]) -> list[dict[str, Any]]:
        return sorted(items(message), key=lambda item: chat.media_kind(item) == "text")

    items = chat.content_items
    return {"chat.content_items": content_items}


@mutant("class of bug; ports that render the template by hand")
def no_vision_markers():
    """Placeholders without <|vision_start|> and <|vision_end|> around them."""

    def render(*args: Any, **kwargs: Any) -> list[str]:
        markers = (chat.VISION_START, chat.VISION_END)
        return [p for p in whole(*args, **kwargs) if p not in markers]

    whole = chat.render
    return {"chat.render": render}


@mutant("transformers 4.57 get_num_of_video_patches; class of bug")
def placeholders_not_merged():
    """One placeholder per patch, not per merge group."""

    def expand(pieces: Sequence[str], placeholder: Any, counts: Sequence[int]) -> list[str]:
        return whole(pieces, placeholder, [4 * count for count in counts])

    whole = chat.expand
    return {"chat.expand": expand}


@mutant("tiny-qwen 3c9d12b")
def no_system_turn():
    """A conversation without a system message gets no default one."""

    def render(messages: Any, *args: Any, **kwargs: Any) -> list[str]:
        pieces = whole(messages, *args, **kwargs)
        default = pieces[1:2] == [f"system\n{chat.SYSTEM_PROMPT}"]
        return pieces[4:] if default else pieces

    whole = chat.render
    return {"chat.render": render}


@mutant("mlx-vlm 0.7.10's template of Qwen2-VL")
def images_after_text():
    """All images of a message are moved after its text, whatever their order."""

    def content_items(message: dict[str, Any]) -> list[dict[str, Any]]:
        return sorted(items(message), key=lambda item: chat.media_kind(item) != "text")

    items = chat.content_items
    return {"chat.content_items": content_items}


@mutant("class of bug; ports that render the template by hand")
def no_generation_prompt():
    """The prompt does not begin the assistant's turn."""

    def render(messages: Any, _: bool = True, *args: Any, **kwargs: Any) -> list[str]:
        kwargs.pop("add_generation_prompt", None)
        return whole(messages, False, *args, **kwargs)

    whole = chat.render
    return {"chat.render": render}


@mutant("class of bug; the template of LLaVA")
def newline_after_images():
    """A newline after every image."""

    def render(*args: Any, **kwargs: Any) -> list[str]:
        pieces = whole(*args, **kwargs)
        return [x for p in pieces for x in ([p, "\n"] if p is chat.VISION_END else [p])]

    whole = chat.render
    return {"chat.render": render}
