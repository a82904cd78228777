"""Compare chat templates with transformers live, on random conversations.

    python -m scripts.compare_templates [--cases 60] [--seed S] [--write FILE]

For every template of ``tests/templates`` and each conversation: the text equals that of
``apply_chat_template(tokenize=False)``; the ids with special tokens obeyed equal those of the text
in its tokenizer; the ids of the default, in which typed special tokens are text, equal those of its
``sanitize_control_tokens=True``, where that sees the same text. What it refuses is refused. Then
files and names of templates, and special tokens as variables. ``--write`` keeps the goldens of
the tests. Exit code 1 when anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jinja2
import tokenizers
import transformers
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.processing_utils import ProcessorMixin
from transformers.utils import chat_template_utils

from scripts.template_cases import (
    FixedDay,
    draw_messages,
    draw_variables,
    template_texts,
    write_folder,
)
from tinyqwenvl import template_env
from tinyqwenvl.errors import UserError
from tinyqwenvl.template import load_template
from tinyqwenvl.tokenizer import load_tokenizer

VERSIONS = {m.__name__: m.__version__ for m in (transformers, tokenizers, jinja2)}
WITH_IMAGES = ("gemma", "glm", "vision_after_text")
WITH_TOOLS = ("qwen3", "hermes_tools", "deepseek", "llama3", "granite", "glm", "phi")


class Witness:
    """Tokenizer and processor of a folder in transformers; the processor has no image part."""

    def __init__(self, directory: Path):
        transformers.utils.logging.set_verbosity_error()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        self.tokenizer.chat_control_tokens = []  # sanitize the special tokens only
        self.processor = object.__new__(Qwen2_5_VLProcessor)
        self.processor.tokenizer = self.tokenizer
        settings, _ = ProcessorMixin.get_processor_dict(directory)
        self.processor.chat_template = settings.get("chat_template")

    def text(self, messages: Any, **variables: Any) -> str:
        """The prompt as the processor writes it."""
        return self.processor.apply_chat_template(messages, tokenize=False, **variables)

    def ids(self, text: str) -> list[int]:
        """The ids of a prompt, special tokens obeyed."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def sanitized(self, messages: Any, **variables: Any) -> list[int]:
        """The ids when special tokens inside messages are text, by the tokenizer's method."""
        variables.setdefault("chat_template", self.processor._resolve_chat_template(None))
        conversations, _ = self.processor._normalize_conversations(messages)
        return self.tokenizer.apply_chat_template(
            conversations[0], sanitize_control_tokens=True, return_dict=False, **variables
        )


def draw_case(rng: np.random.Generator, name: str, text: str) -> tuple[list[dict], dict, bool]:
    """Messages and variables, and whether special tokens were typed."""
    typed, tools = bool(rng.random() < 0.5), name in WITH_TOOLS and bool(rng.random() < 0.5)
    messages = draw_messages(rng, typed, name in WITH_IMAGES, tools)
    variables = draw_variables(rng, text, tools)
    return messages, variables, typed or "documents" in variables


def joins_a_token(messages: Sequence[dict[str, Any]], tokens: Iterable[str]) -> bool:
    """Whether two texts of a message make a token that neither holds: sanitize misses those."""
    for message in messages:
        items = message.get("content")
        texts = [item.get("text", "") for item in items] if isinstance(items, list) else []
        if any(t in "".join(texts) and not any(t in text for text in texts) for t in tokens):
            return True
    return False


def compare(
    rng: np.random.Generator, name: str, text: str, folder: Path, cases: int
) -> Iterator[tuple[str, bool, dict[str, Any]]]:
    """Yield what was compared, whether it holds, and the case with what transformers says."""
    write_folder(folder, {"default": text})
    theirs, ours, tokenizer = Witness(folder), load_template(folder), load_tokenizer(folder)
    assert ours is not None
    for _ in range(cases):
        messages, variables, typed = draw_case(rng, name, text)
        case = {"template": name, "messages": messages, "variables": variables}
        try:
            expected = theirs.text(messages, **variables)
        except Exception as error:  # the template's own refusal, or a sum of text and nothing
            try:
                ours.write(messages, **variables)
                yield f"transformers refuses ({error!r})", False, case
            except UserError:
                yield "refused", True, {**case, "error": True}
            continue
        ids = theirs.ids(expected)
        case |= {"text": expected, "ids": ids}
        yield "text", ours.write(messages, **variables) == expected, case
        obeyed = tokenizer.encode(ours.render(messages, tokenizer, True, **variables)).tolist()
        yield "ids", obeyed == ids, case
        try:
            kept = tokenizer.encode(ours.render(messages, tokenizer, **variables)).tolist()
        except UserError as error:
            yield f"refused by us alone ({error})", False, case
            continue
        if not typed:
            yield "default ids", kept == ids, case
            continue
        said = tokenizer.decode(kept, skip_special=False)
        safe = theirs.sanitized(messages, **variables)
        if joins_a_token(messages, tokenizer.special_tokens):
            same = normalize("NFC", expected) == said
            yield "text of tokens made by two texts", same, case
        elif said == tokenizer.decode(safe, skip_special=False):
            case["safe_ids"] = safe
            yield "default ids with typed tokens", kept == safe, case
        else:  # the markers there have changed what the template does
            yield "default text alone", normalize("NFC", expected) == said, case


def compare_files(folder: Path) -> Iterator[tuple[str, bool]]:
    """Which file's template counts, by which name, and the special tokens as variables."""
    jinja, legacy, more = "chat_template.jinja", "chat_template.json", "additional_chat_templates"
    old, tool = '{"chat_template": "L"}', f"{more}/tool_use.jinja"
    names = '{"chat_template": {"default": "D", "tool_use": "T"}}'
    files = {
        "jinja": {jinja: "J"},
        "json and jinja": {legacy: old, jinja: "J"},
        "named": {jinja: "J", tool: "T"},
        "no default": {tool: "T"},
        "named default": {f"{more}/default.jinja": "D"},
        "both defaults": {f"{more}/default.jinja": "D", jinja: "J"},
        "json and named": {legacy: old, tool: "T"},
        "json by name": {legacy: names},
        "json without": {legacy: "{}"},
        "processor": {"processor_config.json": '{"chat_template": "P"}', jinja: "J"},
    }
    for number, (what, texts) in enumerate(files.items()):
        directory = write_folder(folder / str(number), {})
        for path, text in texts.items():
            (directory / path).parent.mkdir(exist_ok=True)
            (directory / path).write_text(text)
        for name in (None, "tool_use"):
            theirs, ours = chosen_by_them(directory, name), chosen_by_us(directory, name)
            yield f"{what}, {name}: {theirs} there, {ours} here", theirs == ours
    token = {"content": "<|eot_id|>", "lstrip": False, "rstrip": False, "normalized": False}
    typed = {"__type": "AddedToken", **token, "single_word": False}
    settings = [
        {}, {"tokenizer_class": "Qwen2Tokenizer"}, {"tokenizer_class": None, "eos_token": "<s>"},
        {"eos_token": None, "pad_token": typed},
        {"tokenizer_class": "Qwen2TokenizerFast", "unk_token": None},
        {"extra_special_tokens": {"boi": "<|begin_of_image|>"}}, {"mine_token": "</s>"},
    ]  # fmt: skip
    for number, setting in enumerate(settings):
        directory = write_folder(folder / f"tokens{number}", {"default": "J"}, **setting)
        ours = load_template(directory)
        theirs = transformers.AutoTokenizer.from_pretrained(directory).special_tokens_map
        found = dict(ours.tokens) if ours else {}
        yield f"{setting}: {theirs} there, {found} here", found == theirs


def chosen_by_them(directory: Path, name: str | None) -> str | None:
    """The text of the template that their processor takes; None where it refuses."""
    try:
        settings, _ = ProcessorMixin.get_processor_dict(directory)
        processor = object.__new__(Qwen2_5_VLProcessor)
        processor.chat_template = settings.get("chat_template")
        chosen = processor._resolve_chat_template(name)
    except (ValueError, KeyError):
        return None
    return None if chosen == name else chosen  # a name that it does not know is a template to it


def chosen_by_us(directory: Path, name: str | None) -> str | None:
    """The same here."""
    try:
        template = load_template(directory)
        return None if template is None else template.text(name)
    except UserError:
        return None


def main() -> int:
    """Run the cases, print a line for each template; the exit code says whether all held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=60, help="conversations per template")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    parser.add_argument("--write", type=Path, help="save transformers' results for the tests")
    args = parser.parse_args()
    print(f"seed {args.seed}; " + ", ".join(f"{n} {v}" for n, v in VERSIONS.items()))
    failed, goldens = compare_templates(args.seed, args.cases)
    if args.write and not failed:
        lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in goldens)
        head = json.dumps({"versions": VERSIONS, "seed": args.seed})
        args.write.write_text(f'{head[:-1]}, "cases": [\n{lines}\n]}}\n', encoding="utf-8")
    return int(failed > 0)


def compare_templates(seed: int, cases: int) -> tuple[int, list[dict[str, Any]]]:
    """All templates and files, a line for each; (what differs, cases with transformers' texts)."""
    chat_template_utils.datetime = template_env.datetime = FixedDay
    failed, goldens = 0, []
    for number, (name, text) in enumerate(template_texts().items()):
        rng = np.random.default_rng([seed, number])
        with tempfile.TemporaryDirectory() as folder:
            results = list(compare(rng, name, text, Path(folder), cases))
        goldens += [case for what, _, case in results if what in ("text", "refused")]
        failed += report(name, results)
    with tempfile.TemporaryDirectory() as folder:
        failed += report("files", [(w, h, {}) for w, h in compare_files(Path(folder))])
    return failed, goldens


def report(name: str, results: list[tuple[str, bool, dict[str, Any]]]) -> int:
    """Print how often each thing held, and the cases in which it did not; returns their number."""
    wrong = [(what, case) for what, holds, case in results if not holds]
    counts = Counter(what for what, holds, _ in results if holds)
    told = ", ".join(f"{n} {what}" for what, n in counts.items()) if name != "files" else ""
    print(f"{name}: {told or f'{sum(counts.values())} equal'}; {len(wrong)} differ", flush=True)
    for what, case in wrong[:3]:
        print(f"  NOT EQUAL: {what} {json.dumps(case, ensure_ascii=False)[:1500]}")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
