"""Load and render a checkpoint's own chat template: files, variables, messages -> pieces.

The choice of files and the rendering are those of transformers' processor (:mod:`template_env`).
Special tokens that a user typed stay text (:mod:`typed_tokens`).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .config import read_json, read_text
from .errors import UserError
from .messages import all_items, as_messages, media_kind
from .template_env import compile_template, plain_data, template_messages
from .tokenizer import Tokenizer
from .typed_tokens import typed_apart

PUBLISHED_TEMPLATE = "a0bc6f6fc7a29a80017a433e8f03a1cc1236e838a944a2d034295a60c4f2fddb"  # SHA-256
QWEN_TOKENS = dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>")
NAMED_TOKENS = ("bos_token", "sep_token", "cls_token", "mask_token", *QWEN_TOKENS)


@dataclass(frozen=True)
class Template:
    """The chat templates of a checkpoint by name, and their special-token variables."""

    texts: Mapping[str, str]  # usually only "default"
    tokens: Mapping[str, str] = field(default_factory=dict)  # variable -> special token

    def render(
        self, messages: Any, tokenizer: Tokenizer, parse_special: bool = False, **variables: Any
    ) -> list[str]:
        """Render messages to pieces, one placeholder per medium; ``variables`` as in :meth:`write`.

        Special tokens that the template writes are :class:`SpecialToken`; those inside messages,
        tools and variables are text, unless ``parse_special``. Raises UserError.
        """
        write, typed = self._writer(messages, **variables)
        text = _or_error(lambda: write(typed))
        return (
            tokenizer.split(text) if parse_special else typed_apart(write, typed, tokenizer, text)
        )

    def write(self, messages: Any, **variables: Any) -> str:
        """Render the prompt as one text, like ``apply_chat_template(tokenize=False)`` of HF.

        ``variables`` are ``tools`` (JSON schemas), ``documents``, ``add_generation_prompt``
        (default True), ``chat_template`` (a name, if a checkpoint has several), and the template's
        own variables. Raises UserError.
        """
        write, typed = self._writer(messages, **variables)
        return _or_error(lambda: write(typed))

    def _writer(
        self,
        messages: Any,
        add_generation_prompt: bool = True,
        chat_template: str | None = None,
        tools: Any = None,
        documents: Any = None,
        **variables: Any,
    ) -> tuple[Callable[[Any], str], Any]:
        """A function that renders, and the user's data as its argument."""
        text = self.text(chat_template)
        compiled, known = _or_error(lambda: compile_template(text))
        if unknown := set(variables) - known:
            raise UserError(f"the chat template has no variable {min(unknown)}")
        found = as_messages(messages)
        for item in all_items(found):
            media_kind(item)  # raises for items that templates drop
        data = [_dicts(tools, "tools"), _dicts(documents, "documents"), variables]
        typed = [template_messages(found), *plain_data(data)]

        def write(typed: Any) -> str:
            messages, tools, documents, variables = typed
            return compiled.render(
                messages=messages,
                tools=tools,
                documents=documents,
                add_generation_prompt=add_generation_prompt,
                **{**self.tokens, **variables},
            )

        return write, typed

    def text(self, name: str | None = None) -> str:
        """The template of that name; by default "default", as in transformers' processor."""
        chosen = "default" if name is None else name
        if chosen not in self.texts:
            raise UserError(
                f"this checkpoint has no chat template {chosen!r}; choose one "
                f"(chat_template=...): {', '.join(sorted(self.texts))}"
            )
        return self.texts[chosen]


def _or_error(made: Callable[[], Any]) -> Any:
    try:
        return made()
    except UserError:
        raise
    except Exception as error:  # a template is a program: it can fail in any way
        line = r"\n".join(str(error).splitlines()) or type(error).__name__
        raise UserError(f"the chat template of this checkpoint fails: {line}") from None


def _dicts(value: Any, name: str) -> Any:
    """Tools or documents: a list of dicts, or None."""
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not all(isinstance(v, Mapping) for v in value):
        raise UserError(f"{name} must be a list of dicts, for tools their JSON schemas")
    return list(value)


# ------------------------------------------------------------------ files


def load_template(directory: Path) -> Template | None:
    """Load the chat templates of a directory; None means the published one.

    As in transformers' processor, ``processor_config.json`` comes first, then
    ``chat_template.json``, then ``chat_template.jinja`` with ``additional_chat_templates/``. The
    template in ``tokenizer_config.json`` is ignored: the published one there has no images. A
    directory without a template gets the published one. Raises UserError.
    """
    texts = _texts(directory)
    if texts is None:
        if read_json(directory / "tokenizer_config.json").get("chat_template") is not None:
            warnings.warn(
                f"{directory}: only tokenizer_config.json has a chat template, for text only; "
                "the published one is used. To use the other, save it as chat_template.jinja",
                UserWarning,
                stacklevel=3,
            )
        return None
    if set(texts) == {"default"} and is_published(texts["default"]):
        return None
    return Template(texts, special_token_variables(directory))


def is_published(text: str) -> bool:
    """Whether a template equals the one published with Qwen2-VL and Qwen2.5-VL."""
    return hashlib.sha256(text.strip().encode()).hexdigest() == PUBLISHED_TEMPLATE


def _texts(directory: Path) -> dict[str, str] | None:
    """Templates by name, or None if no file has any."""
    folder = directory / "additional_chat_templates"
    more = {path.stem: path for path in sorted(folder.glob("*.jinja"))} if folder.is_dir() else {}
    jinja, legacy = directory / "chat_template.jinja", directory / "chat_template.json"
    settings = directory / "processor_config.json"
    if legacy.exists() and more:
        raise UserError(
            f"{legacy} exists next to {folder.name}/; keep one of them (transformers refuses both)"
        )
    if (found := read_json(settings).get("chat_template")) is not None:
        return _named(found, settings)
    if legacy.exists():
        return _named(read_json(legacy).get("chat_template"), legacy)
    if jinja.exists():
        more["default"] = jinja
    return {name: read_text(path) for name, path in more.items()} or None


def _named(found: Any, source: Path) -> dict[str, str]:
    texts = {"default": found} if isinstance(found, str) else found
    if isinstance(texts, Mapping) and all(isinstance(t, str) for t in texts.values()) and texts:
        return dict(texts)
    raise UserError(f"{source}: its chat_template is neither a text nor a dict of texts")


def special_token_variables(directory: Path) -> dict[str, str]:
    """The special tokens that a template can use as variables, such as ``eos_token``.

    ``tokenizer_config.json`` names them, or ``special_tokens_map.json`` if it lists no added
    tokens. Qwen2's tokenizer class has its own defaults. All as in transformers 5.
    """
    settings = read_json(directory / "tokenizer_config.json")
    if "added_tokens_decoder" not in settings:
        settings = {**settings, **read_json(directory / "special_tokens_map.json")}
    kind = settings.get("tokenizer_class")
    qwen = kind is None or str(kind).removesuffix("Fast") == "Qwen2Tokenizer"
    named: dict[str, Any] = dict(QWEN_TOKENS) if qwen else {}
    named |= {
        name: value
        for name, value in settings.items()
        if name in NAMED_TOKENS or (name.endswith("_token") and isinstance(value, (str, dict)))
    }
    extra = settings.get("extra_special_tokens")
    named |= extra if isinstance(extra, dict) else {}
    tokens = {k: v.get("content") if isinstance(v, dict) else v for k, v in named.items()}
    return {name: token for name, token in tokens.items() if isinstance(token, str)}
