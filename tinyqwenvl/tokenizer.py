"""Convert text to token ids and back: byte-level BPE that separates text from special tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .config import read_json, read_text
from .deprecated import old_names
from .dims import Array, Int
from .errors import UserError

# Qwen2.5's added tokens in the order of their ids, from 151643; Qwen2's end with <|video_pad|>.
ADDED_TOKENS = tuple(
    """<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|>
    <|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|>
    <|image_pad|> <|video_pad|> <tool_call> </tool_call> <|fim_prefix|> <|fim_middle|>
    <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>""".split()
)

# The pre-tokenizer of Qwen2: contractions, words, single digits, punctuation, line ends, spaces.
PRETOKENS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


T = TypeVar("T")


class SpecialToken(str):
    """A special token, in contrast to text that is merely spelt like one."""


class Tokenizer:
    """Byte-level BPE of the ``tokenizers`` library; text never becomes a special token."""

    def __init__(self, backend: Any):
        self.backend = backend
        self.backend.encode_special_tokens = True  # a special token inside text is text
        self.backend.no_truncation()  # never truncate a prompt silently
        self.backend.no_padding()

    def encode(self, pieces: str | Sequence[str]) -> Int[Array, "S"]:
        """Encode text, or the pieces of a prompt. Adjacent texts are encoded as one."""
        return self.encode_parts([pieces] if isinstance(pieces, str) else pieces)[0]

    def encode_parts(self, pieces: Sequence[str]) -> tuple[Int[Array, "S"], Int[Array, "S"]]:
        """Encode pieces; also return, per id, the index of the piece in which it begins."""
        ids: list[int] = []
        parts: list[int] = []
        begin = 0
        for special, run in groupby(pieces, lambda piece: isinstance(piece, SpecialToken)):
            together = list(run)
            if special:
                ids += map(self.token_id, together)
                parts += range(begin, begin + len(together))
            else:
                encoding = self._encode_text("".join(together))
                starts = [start for start, _ in encoding.offsets]
                ends = np.cumsum([len(text) for text in together])
                ids += encoding.ids
                parts += (begin + np.searchsorted(ends, starts, side="right")).tolist()
            begin += len(together)
        return np.array(ids, dtype=np.int64), np.array(parts, dtype=np.int64)

    def _encode_text(self, text: str) -> Any:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(f"the text is not Unicode: {error}") from None
        return self.backend.encode(text, add_special_tokens=False)

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """The added tokens flagged as special: a user cannot write them as text."""
        added = self.backend.get_added_tokens_decoder().values()
        return tuple(token.content for token in added if token.special)

    def split(self, text: str) -> list[str]:
        """Split text into pieces; every added token of this tokenizer becomes special.

        Spaces next to a token with lstrip or rstrip are dropped.
        """
        pieces: list[str] = []
        begin = 0
        tokens, pattern = self._added
        for found in pattern.finditer(text) if tokens else ():
            pieces += [
                text[begin : found.start()],
                SpecialToken(tokens[(found.lastindex or 1) - 1]),
            ]
            begin = found.end()
        return [piece for piece in (*pieces, text[begin:]) if piece]

    @cached_property
    def _added(self) -> tuple[list[str], re.Pattern[str]]:
        """The added tokens, longest first, and a regular expression with one group per token."""
        added = self.backend.get_added_tokens_decoder().values()
        added = sorted(added, key=lambda token: -len(token.content))
        forms = []
        for token in added:
            form = f"({re.escape(token.content)})"
            form = rf"(?<!\w){form}(?!\w)" if token.single_word else form
            forms.append(r"\s*" * token.lstrip + form + r"\s*" * token.rstrip)
        return [token.content for token in added], re.compile("|".join(forms))

    def token_id(self, token: str) -> int:
        """The id of one token. Raises UserError if it is not in the vocabulary."""
        number = self.backend.token_to_id(token)
        if number is None:
            raise UserError(f"the tokenizer has no {token}: is it the tokenizer of this model?")
        return number

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Decode ids to text."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=skip_special)

    def stream(self, ids: Iterator[int]) -> Iterator[str]:
        """Yield text as ids arrive; a multi-token character is yielded after its last byte."""
        from tokenizers.decoders import DecodeStream

        decoder, seen, said = DecodeStream(skip_special_tokens=True), [], ""
        for number in ids:
            seen.append(number)
            if (text := decoder.step(self.backend, int(number))) is not None:
                said += text
                yield text
        if rest := self.decode(seen)[len(said) :]:
            yield rest

    def __len__(self) -> int:
        return self.backend.get_vocab_size(with_added_tokens=True)


def load_tokenizer(directory: Path) -> Tokenizer:
    """Load ``tokenizer.json``, or ``vocab.json`` and ``merges.txt`` with their added tokens."""
    settings = directory / "tokenizer_config.json"
    listed = read_json(settings).get("added_tokens_decoder")  # older files list none
    if (directory / "tokenizer.json").exists():
        tokenizer = load_tokenizer_files(directory / "tokenizer.json")
        if listed:
            backend = tokenizer.backend
            _or_error(lambda: _add_tokens(backend, _added_tokens(settings), settings), settings)
        return tokenizer
    vocabulary, merges = directory / "vocab.json", directory / "merges.txt"
    if not vocabulary.exists() or not merges.exists():
        raise UserError(f"{directory} has no tokenizer.json and no vocab.json with merges.txt")
    return load_tokenizer_files(vocabulary, merges, settings if listed is not None else None)


def load_tokenizer_files(
    path: Path, merges: Any = None, added: Path | str | None = None
) -> Tokenizer:
    """Load a tokenizer.json; or a vocab.json, its merges, and a JSON file of the added tokens.

    ``added`` is a tokenizer_config.json, a list of tokens in the order of their ids, or a dict from
    token to id; None means the 22 added tokens of Qwen2.5. Raises UserError.
    """
    from tokenizers import Tokenizer as Backend

    if merges is None and added is not None:
        raise UserError(f"{path}: a vocabulary needs its merges too")
    if merges is None:
        return _or_error(lambda: Tokenizer(Backend.from_file(str(path))), path)
    tokens = _or_error(lambda: _added_tokens(added), path)
    return _or_error(lambda: Tokenizer(_from_vocabulary(path, Path(merges), tokens)), path)


def _or_error(made: Callable[[], T], path: Path) -> T:
    try:
        return made()
    except UserError:
        raise
    except Exception as error:  # the library raises bare Exception for files it cannot read
        raise UserError(f"cannot read the tokenizer {path}: {error}") from None


def _added_tokens(path: Path | str | None) -> list[dict[str, Any]]:
    """All added tokens in the order of their ids: {"content", "special", "id" if given}."""
    special = ADDED_TOKENS[: ADDED_TOKENS.index("<tool_call>")]
    value: Any = ADDED_TOKENS if path is None else json.loads(read_text(Path(path)))
    if isinstance(value, dict) and "added_tokens_decoder" in value:
        listed = value["added_tokens_decoder"]
        return [{**listed[number], "id": int(number)} for number in sorted(listed, key=int)]
    ids: dict[str, int] = {}
    if isinstance(value, dict) and all(type(number) is int for number in value.values()):
        ids, value = value, sorted(value, key=lambda token: value[token])
    if not isinstance(value, (list, tuple)) or not all(isinstance(t, str) for t in value):
        raise UserError(f"{path} is neither a list of tokens nor a dict from token to id")
    return [
        {"content": t, "special": t in special or t not in ADDED_TOKENS, "id": ids.get(t)}
        for t in value
    ]


def _from_vocabulary(vocabulary: Path, merges: Path, tokens: list[dict[str, Any]]) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers
    from tokenizers import pre_tokenizers as pre

    backend = Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre.Sequence(
        [pre.Split(Regex(PRETOKENS), "isolated"), pre.ByteLevel(False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    _add_tokens(backend, tokens, vocabulary)
    return backend


def _add_tokens(backend: Any, tokens: list[dict[str, Any]], source: Path) -> None:
    """Add tokens with their flags, or update the flags of existing tokens."""
    from tokenizers import AddedToken

    flags = {"special": True, "lstrip": False, "rstrip": False, "single_word": False}
    backend.add_tokens(
        [
            AddedToken(
                t["content"],
                normalized=t.get("normalized", False),
                **{name: t.get(name, default) for name, default in flags.items()},
            )
            for t in tokens
        ]
    )
    for token in tokens:
        given = backend.token_to_id(token["content"])
        if token.get("id") not in (None, given):
            raise UserError(
                f"{token['content']} should have the id {token['id']}, but {source} gives "
                f"{given}: these files do not match"
            )


old_names(globals())
