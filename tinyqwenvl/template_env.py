"""The jinja2 environment and data with which transformers 5.24 renders a chat template.

It follows ``transformers/utils/chat_template_utils.py`` without importing it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import numpy as np

from .errors import UserError

OLDEST_JINJA = (3, 1, 6)  # older sandboxes are unsafe; transformers has the same limit
REASONING = ("reasoning_content", "thinking", "reasoning")  # three names for one field


@lru_cache(maxsize=32)
def compile_template(text: str) -> tuple[Any, frozenset[str]]:
    """Compile a template; also return the names of the variables that it uses.

    Raises UserError if jinja2 is missing or too old, and jinja2's own errors for bad syntax.
    """
    environment = make_environment()
    from jinja2 import meta

    names = meta.find_undeclared_variables(environment.parse(text))
    return environment.from_string(text), frozenset(names)


def make_environment() -> Any:
    """A sandboxed environment with the tags, filters and globals of transformers."""
    try:
        import jinja2
        from jinja2 import nodes
        from jinja2.ext import Extension, loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise UserError("this checkpoint has its own chat template: pip install jinja2") from None
    version = jinja2.__version__
    if tuple(int(part) for part in version.split(".")[:3] if part.isdigit()) < OLDEST_JINJA:
        raise UserError(
            f"a chat template needs jinja2 3.1.6 or later, not {version}: pip install -U jinja2"
        )

    class Generation(Extension):
        """``{% generation %}`` encloses the assistant's text; it renders as its body."""

        tags = {"generation"}  # noqa: RUF012 (jinja2's own form)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            call = self.call_method("_body")
            return nodes.CallBlock(call, [], [], body).set_lineno(line)

        def _body(self, caller: Any) -> str:
            return caller()

    class Namespace(jinja2.utils.Namespace):
        """A namespace that forbids attributes with a leading underscore."""

        def __init__(*args: Any, **kwargs: Any) -> None:
            self, attributes = args[0], dict(*args[1:], **kwargs)
            for name in attributes:
                _public(name)
            jinja2.utils.Namespace.__init__(self, attributes)

        def __setitem__(self, name: str, value: Any) -> None:
            _public(name)
            super().__setitem__(name, value)

    def _public(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace holds no {name!r}")

    def raise_exception(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    environment.globals["dict"] = _Dict()
    environment.globals["namespace"] = Namespace
    return environment


def _tojson(
    x: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """JSON without jinja2's HTML escapes; non-ASCII characters stay."""
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


class _Dict:
    """``dict`` in a template: it creates dicts and has no other attribute."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


# ------------------------------------------------------------------ data for a template


def template_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Convert messages for a template: plain data, image_url items as images, reasoning aliased.

    transformers fills ``reasoning_content`` from its older names, and ``thinking`` from it.
    """
    seen = []
    for message in messages:
        message = plain_data(message)
        if isinstance(message.get("content"), list):
            message["content"] = [_as_media(item) for item in message["content"]]
        found = next((message[k] for k in REASONING if message.get(k) is not None), None)
        if found is not None:
            message = {"thinking": found, **message, "reasoning_content": found}
        seen.append(message)
    return seen


def _as_media(item: dict[str, Any]) -> dict[str, Any]:
    """Convert OpenAI's ``{"type": "image_url", "image_url": {"url": ...}}`` to type image.

    ``video_url`` is converted too; transformers leaves it, so a template drops the video.
    """
    kind = str(item.get("type"))
    if kind not in ("image_url", "video_url") or kind not in item:
        return item
    source = item[kind]
    url = source.get("url", "") if isinstance(source, dict) else source
    return {"type": kind.removesuffix("_url"), "url": url}


def plain_data(value: Any) -> Any:
    """Convert to JSON types; any other object becomes a text such as "<Image>"."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):  # an enum or another subclass
            return kind.__str__(value) if kind is str else kind(value)
    if isinstance(value, Mapping):
        return {plain_data(key): plain_data(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        plain = [plain_data(item) for item in value]
        return tuple(plain) if isinstance(value, tuple) else plain
    if isinstance(value, np.generic):
        return plain_data(value.item())
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain_data(getattr(value, field.name)) for field in fields(value)}
    if callable(dump := getattr(value, "model_dump", None)):
        return plain_data(dump())
    return f"<{type(value).__name__}>"
