"""Normalise messages to a list of dicts, the only form that a chat template accepts.

A single message, dataclasses, pydantic models and other objects with a role are accepted. Keys that
are None are dropped, because Arrow adds them to every record. Content that a template would drop
raises an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from .errors import UserError

KINDS = {  # type of a content item -> medium
    "image": "image",
    "image_url": "image",
    "video": "video",
    "video_url": "video",
    "text": "text",
}
AS_GIVEN = ("image", "video", "content")  # keys whose values other modules read
BESIDE_CONTENT = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")


def as_messages(messages: Any) -> list[dict[str, Any]]:
    """Convert a conversation, a message or a list of messages to dicts without None values.

    Each message has a "role". The "content" is a string or a list of dicts; only messages with
    tool calls or reasoning may lack it. Raises UserError.
    """
    messages = (
        messages if isinstance(messages, Mapping) else getattr(messages, "messages", messages)
    )
    if isinstance(messages, Mapping) or hasattr(messages, "role"):
        messages = [messages]
    if not isinstance(messages, (list, tuple)):
        raise UserError("messages must be a list of dicts with 'role' and 'content'")
    return [_message(message) for message in messages]


def _message(value: Any) -> dict[str, Any]:
    message = as_dict(value)
    if message is None or not isinstance(message.get("role"), str):
        raise UserError("a message must be a dict with 'role' and 'content'")
    content = message.get("content")
    if isinstance(content, (list, tuple)):
        items = [as_dict(item) for item in content]
        if all(item is not None for item in items):
            return {**message, "content": items}
    elif isinstance(content, str) or (content is None and _says_more(message)):
        return message
    raise UserError("the content of a message must be a string or a list of items (dicts)")


def _says_more(message: Mapping[str, Any]) -> bool:
    return any(message.get(key) is not None for key in BESIDE_CONTENT)


def as_dict(value: Any) -> dict[str, Any] | None:
    """A dict or object with attributes as a dict without None values; None for other values."""
    if isinstance(value, Mapping):
        found = dict(value)
    elif is_dataclass(value) and not isinstance(value, type):
        found = {field.name: getattr(value, field.name) for field in fields(value)}
    elif callable(dump := getattr(value, "model_dump", None)):  # pydantic
        found = dump()
    elif hasattr(value, "role") or isinstance(getattr(value, "type", None), str):
        found = {k: v for k, v in vars(value).items() if not k.startswith("_")}
    else:
        return None
    return {
        key: value if key in AS_GIVEN and not isinstance(value, str) else _inside(value)
        for key, value in found.items()
        if value is not None
    }


def _inside(value: Any) -> Any:
    """Convert objects inside a message (tool calls, image_url) to dicts; keep None and media."""
    if isinstance(value, str):
        return str.__str__(value)  # the value of an enum, not its name
    if isinstance(value, Mapping):
        return {key: _inside(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_inside(item) for item in value]
    dump: Callable[[], Any] | None = getattr(value, "model_dump", None)
    if callable(dump):
        return _inside(dump())
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _inside(getattr(value, field.name)) for field in fields(value)}
    return value


# ------------------------------------------------------------------ content items


def media_kind(item: dict[str, Any]) -> str:
    """The medium of a content item: "image", "video" or "text"."""
    kind = item.get("type")
    if kind is not None and (not isinstance(kind, str) or kind not in KINDS):
        raise UserError(f"the type of a content item must be image, video or text, not {kind!r}")
    held = {
        key for key, value in item.items() if value is not None
    }  # None: an empty cell of a table
    if KINDS.get(kind or "") == "image" or held & {"image", "image_url"}:
        return "image"
    if KINDS.get(kind or "") == "video" or held & {"video", "video_url"}:
        return "video"
    if "text" in held:
        return "text"
    raise UserError(f"a content item needs image, video or text, not {', '.join(item)}")


def warn_unwritten(item: Mapping[str, Any], kind: str) -> None:
    """Warn if an item holds more than its image or video: templates write only one of them."""
    given = {key: item.get(key) for key in KINDS}
    held = {KINDS[k] for k, v in given.items() if not (v is None or (isinstance(v, str) and not v))}
    if kind != "text" and (more := sorted(held - {kind})):
        warnings.warn(
            f"a content item holds {kind} and {' and '.join(more)}: only the {kind} is read; give "
            "each an item of its own",
            UserWarning,
            stacklevel=4,
        )


def all_items(messages: Any) -> list[dict[str, Any]]:
    """The content items of a whole conversation, in order."""
    return [item for message in as_messages(messages) for item in _items(message)]


def content_items(message: dict[str, Any]) -> list[dict[str, Any]]:
    """A message's content as a list of items; a string is one text item."""
    return _items(_message(message))


def _items(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content", [])
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def warn_unread(messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> None:
    """Warn about parts that the published template drops (transformers drops them silently).

    Raises UserError for variables of other templates: they are usually misspelt options.
    """
    if unknown := [name for name in variables if name not in ("tools", "documents")]:
        raise UserError(f"the published chat template has no variable {unknown[0]}")
    given = [name for name in ("tools", "documents") if variables.get(name)]
    given += [key for key in BESIDE_CONTENT if any(message.get(key) for message in messages)]
    if given:
        warnings.warn(
            f"the published chat template does not write {' and '.join(given)}: the model does "
            "not get them",
            UserWarning,
            stacklevel=4,
        )
