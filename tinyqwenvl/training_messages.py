"""Read the messages of training samples: dicts or objects, items of HF or TorchTune, tools.

Tools follow the template in Qwen2.5-VL's ``tokenizer_config.json`` (the published multimodal
template has none). Signatures stand at the end of the system turn, each call between
``<tool_call>`` and ``</tool_call>``, and results in a user turn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import UserError
from .media import IMAGE_KEYS
from .media_source import unwrapped
from .messages import as_dict

RESULT_ROLES = ("tool", "ipython")  # HF's name, TorchTune's name
KINDS = ("image", "text")
TOOLS_BEGIN = (
    "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
TOOLS_END = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


def field(message: Any, name: str, *default: Any) -> Any:
    """A field of a message, which is a dict or an object. Raises UserError without a default."""
    if isinstance(message, Mapping) and name in message:
        return message[name]
    if not isinstance(message, Mapping) and hasattr(message, name):
        return getattr(message, name)
    if default:
        return default[0]
    raise UserError(f"a message needs a role and a content; this one has no {name}")


def role_of(message: Any) -> str:
    """The role of a message."""
    role = field(message, "role")
    if not isinstance(role, str) or not role:
        raise UserError(f"the role of a message must be a text such as user, not {role!r}")
    return role


def plain(message: Any) -> Any:
    """A message whose items are objects (pydantic, dataclasses) as a dict; any other as it is."""
    content = field(message, "content", None)
    if not isinstance(content, (list, tuple)) or all(isinstance(item, dict) for item in content):
        return message
    found, items = as_dict(message), [as_dict(item) for item in content]
    if found is None or None in items:
        raise UserError("the content of a message must be a text or a list of items (dicts)")
    return {**found, "content": items}


def items_of(message: Any) -> list[dict[str, Any]]:
    """The content of a message as a list of items; a string is one text item."""
    content = field(message, "content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, (list, tuple)) or not all(isinstance(i, dict) for i in content):
        raise UserError("the content of a message must be a text or a list of items (dicts)")
    return list(content)


def kind_of(item: Mapping[str, Any]) -> str:
    """The kind of an item, "image" or "text". Keys that are None are ignored: Arrow adds them."""
    held = [kind for kind in KINDS if item.get(kind) is not None]
    kind = item.get("type") or next(iter(held), None)
    kind = "image" if kind == "image_url" else kind
    if kind not in KINDS:
        raise UserError(f"the type of an item must be text or image, not {kind!r}")
    if others := [other for other in held if other != kind]:
        raise UserError(f"an item of type {kind} also has {others[0]!r}; make it a separate item")
    return kind


def value_of(item: Mapping[str, Any], kind: str) -> Any:
    """The value of an item: HF's key is ``text`` or ``image``, TorchTune's ``content``."""
    names = (*IMAGE_KEYS, "content") if kind == "image" else (kind, "content")
    value = next((item[name] for name in names if item.get(name) is not None), None)
    if value is None:
        raise UserError(f"an item of type {kind} has neither {kind!r} nor 'content'")
    return unwrapped(value) if isinstance(value, dict) else value


# ------------------------------------------------------------------ tools


def with_tools(messages: Sequence[Any], tools: Any = None) -> list[Any]:
    """Write tools, tool calls and their results as text in the messages.

    ``tools`` are signatures (dicts) for the system turn, which must exist. A message's
    ``tool_calls`` are HF's: ``{"function": {"name": ..., "arguments": {...}}}``, or without
    "function". Other messages are returned unchanged.
    """
    written: list[Any] = []
    for message in messages:
        role = role_of(message)
        calls = field(message, "tool_calls", None)
        if calls and role != "assistant":
            raise UserError(f"a message of {role} has tool_calls; only the assistant calls tools")
        if role in RESULT_ROLES:
            after = bool(written) and isinstance(written[-1], _Results)
            if not after:
                written.append(_Results())
            written[-1].add(message)
        elif calls or (role == "assistant" and field(message, "ipython", None)):
            written.append(_calling(message, calls))
        else:
            written.append(message)
    if tools:
        written[:1] = [_system_with(tools, written[:1])]
    return [message.whole() if isinstance(message, _Results) else message for message in written]


class _Results:
    """Consecutive tool results: one user turn."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self.masks: list[Any] = []

    def add(self, message: Any) -> None:
        """Add a result."""
        before = "\n<tool_response>\n" if self.items else "<tool_response>\n"
        self.items += [_text(before), *items_of(message), _text("\n</tool_response>")]
        self.masks.append(field(message, "masked", None))

    def whole(self) -> dict[str, Any]:
        """The user turn; masked if all of its results are."""
        masked = None if None in self.masks else all(self.masks)
        return {"role": "user", "content": self.items, "masked": masked}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _calling(message: Any, calls: Any) -> dict[str, Any]:
    content = field(message, "content", None)
    items = items_of(message) if content else []
    if calls is None:  # TorchTune: the content is the call
        items = [_text("<tool_call>\n"), *items, _text("\n</tool_call>")]
    else:
        if not isinstance(calls, (list, tuple)):
            raise UserError("tool_calls must be a list of calls")
        lines = [_call(call) for call in calls]
        items.append(_text("\n" * bool(items) + "\n".join(lines)))
    return {"role": "assistant", "content": items, "masked": field(message, "masked", None)}


def _call(call: Any) -> str:
    function = field(call, "function", None) or call
    name, arguments = field(function, "name", None), field(function, "arguments", None)
    if not isinstance(name, str):
        raise UserError('a tool call has no name; give {"name": ..., "arguments": {...}}')
    if isinstance(arguments, str):
        raise UserError(
            f"the arguments of {name} are a string, which would be quoted; pass the object: "
            "json.loads(arguments)"
        )
    return f'<tool_call>\n{{"name": "{name}", "arguments": {_json(arguments)}}}\n</tool_call>'


def _system_with(tools: Any, first: list[Any]) -> dict[str, Any]:
    if not isinstance(tools, (list, tuple)) or not all(isinstance(tool, Mapping) for tool in tools):
        raise UserError("tools must be a list of dicts, the signatures of functions")
    if not first or role_of(first[0]) != "system":
        raise UserError("tools need a system turn; with this packaging, add one yourself")
    lines = "".join("\n" + _json(tool) for tool in tools)
    items = [*items_of(first[0]), _text(TOOLS_BEGIN + lines + TOOLS_END)]
    return {"role": "system", "content": items, "masked": field(first[0], "masked", None)}


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"a tool or its arguments cannot be JSON: {error}") from None
