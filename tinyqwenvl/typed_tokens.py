"""Find the special tokens of a rendered template that the user typed, and keep them as text.

A template must receive exactly what was typed. The prompt is therefore rendered with the true text,
and again with some typed characters replaced by stand-ins (private-use characters). If both
renderings agree, the stand-ins show which characters were typed. If they differ, the template
inspects such a character: it is restored. If a special token begins there, another of its
characters is replaced, or a marker inserted before it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .errors import UserError
from .tokenizer import SpecialToken, Tokenizer

MOST_RENDERINGS = 400
PRIVATE = range(0xE000, 0xF8FF)
Place = tuple[int, int]  # a typed character: index of its text, index in the text


def typed_apart(
    render: Callable[[Any], str], typed: Any, tokenizer: Tokenizer, text: str
) -> list[str]:
    """Split ``text`` = ``render(typed)`` into pieces; special tokens inside ``typed`` stay text.

    ``typed`` has JSON types. Raises UserError if the template inspects a special token in the text,
    so that it is ambiguous which one was typed.
    """
    special = tokenizer.special_tokens
    texts = list(_texts(typed))
    starts = {token[0] for token in special}
    places = [(i, j) for i, t in enumerate(texts) for j, c in enumerate(t) if c in starts]
    if not places:
        return tokenizer.split(text)
    return _Search(render, typed, texts, text, starts, special).run(places, tokenizer)


class _Search:
    """The typed characters that can be replaced or marked without changing the rendering."""

    def __init__(
        self,
        render: Callable[[Any], str],
        typed: Any,
        texts: Sequence[str],
        text: str,
        starts: set[str],
        special: Sequence[str],
    ):
        self.render, self.typed, self.texts = render, typed, texts
        self.text, self.special = text, [token for token in special if len(token) > 1]
        used = set(text).union(*texts)
        free = (chr(code) for code in PRIVATE if chr(code) not in used)
        self.marker = next(free)
        self.stand_in = {c: next(free) for c in sorted(set("".join(special)))}
        self.back = str.maketrans({v: k for k, v in self.stand_in.items()} | {self.marker: ""})
        self.done: dict[Place, str] = {}  # what is written there
        self.rendered = text
        self.count = 0

    def run(self, places: list[Place], tokenizer: Tokenizer) -> list[str]:
        """The pieces of the text."""
        if not self.holds(dict.fromkeys(places, "exchanged")):
            risky = [place for place in places if self.token_at(place) is not None]
            read = self.exchange(risky)
            self.exchange([place for place in places if self.token_at(place) is None])
            for place in read:
                if not self.broken(place) and not self.holds({place: "marked"}):
                    raise UserError(
                        f"the chat template of this checkpoint inspects {self.token_at(place)} in "
                        "the text of a message; remove it, or parse it as transformers does "
                        "(parse_special, --parse-special)"
                    )
        return self.pieces(tokenizer.split(self.rendered))

    def token_at(self, place: Place) -> str | None:
        """The special token that begins there, complete or not."""
        rest = self.texts[place[0]][place[1] :]
        fits = (t for t in self.special if rest.startswith(t) or t.startswith(rest))
        return max(fits, key=len, default=None)

    def exchange(self, places: list[Place]) -> list[Place]:
        """Replace the characters that do not change the rendering; return the others."""
        if not places or self.holds(dict.fromkeys(places, "exchanged")):
            return []
        if len(places) == 1 or self.count > MOST_RENDERINGS:
            return places
        middle = len(places) // 2
        return self.exchange(places[:middle]) + self.exchange(places[middle:])

    def broken(self, place: Place) -> bool:
        """Try to replace another character of the special token at ``place``."""
        i, j = place
        end = min(j + len(self.token_at(place) or ""), len(self.texts[i]))
        return any(self.holds({(i, k): "exchanged"}) for k in range(j + 1, end))

    def holds(self, more: Mapping[Place, str]) -> bool:
        """Whether the rendering stays the same; if so, keep the change."""
        self.count += 1
        trial = {**self.done, **more}
        by_text: dict[int, dict[int, str]] = defaultdict(dict)
        for (i, j), how in trial.items():
            by_text[i][j] = how
        changed = [self.written(t, by_text[i]) if i in by_text else t
                   for i, t in enumerate(self.texts)]  # fmt: skip
        try:
            rendered = self.render(_with_texts(self.typed, iter(changed)))
        except Exception:  # a template is a program: it can fail in any way
            return False
        if rendered.translate(self.back) != self.text:
            return False
        self.done, self.rendered = trial, rendered
        return True

    def written(self, text: str, places: Mapping[int, str]) -> str:
        """A text with its stand-ins and markers."""
        characters = list(text)
        for place, how in places.items():
            c = characters[place]
            characters[place] = self.stand_in[c] if how == "exchanged" else self.marker + c
        return "".join(characters)

    def pieces(self, split: list[str]) -> list[str]:
        """Restore the typed text; a special token after the marker is text."""
        pieces: list[str] = []
        marked = False
        for piece in split:
            special = isinstance(piece, SpecialToken) and not marked
            marked = piece.endswith(self.marker)
            pieces.append(piece if special else str(piece).translate(self.back))
        return [piece for piece in pieces if piece]


def _texts(value: Any) -> Any:
    """All texts inside data, including keys of dicts, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def _with_texts(value: Any, texts: Any) -> Any:
    """The same data with its texts replaced, in the order of :func:`_texts`."""
    if isinstance(value, str):
        return next(texts)
    if isinstance(value, Mapping):
        return {_with_texts(key, texts): _with_texts(item, texts) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_with_texts(item, texts) for item in value])
    return value
