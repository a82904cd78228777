"""Parse the written forms of boxes and points in an answer: coordinates and labels as written.

Models write JSON that is not quite JSON: single quotes, quotes and line breaks inside labels, prose
around it, brackets that never close. Every parser here scans the text once, from left to right, in
linear time, and never raises an exception.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

BOX_KEYS = ("bbox_2d", "bbox", "box", "bounding_box")
POINT_KEYS = ("point_2d", "points_2d", "point", "points", "coordinate", "coordinate2")
QUAD_KEYS = ("quad_2d", "quad", "polygon")
LABELS = (
    "label", "text_content", "sub_label", "text", "name", "class", "category", "object",
    "description", "phrase", "action",
)  # fmt: skip
KEYS = {*BOX_KEYS, *POINT_KEYS, *QUAD_KEYS, *LABELS}
DEEPEST = 500  # levels of nested brackets
LONGEST_NUMBER = 40  # characters; a coordinate has a few


class Form(NamedTuple):
    """One location as written in an answer: 2, 4 or 8 coordinates in order, and a label."""

    start: int  # where it begins in the text
    place: tuple[float, ...]  # coordinates as written, x and y alternating
    label: str  # "" if none is written


class Found(NamedTuple):
    """All locations that one parser finds; ``cut`` if the text ends in the middle of one."""

    forms: list[Form]  # in the order of the text
    cut: bool  # True if the text ends within a location


# ------------------------------------------------------------------ JSON and Python literals

_TOKEN = re.compile(
    r"""(?P<open>[\[{(])|(?P<close>[\]})])|(?P<colon>:)|(?P<comma>,)|(?P<quote>["'])"""
    r"""|(?P<number>[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))|(?P<word>\w+)"""
    r"""|(?P<space>\s+)|(?P<junk>.)""",
    re.DOTALL,
)
_NUMBER = re.compile(r"\s*[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?\s*")
_BEGINS = re.compile(r"[\[{]")
_FENCE = re.compile(r"\s*(?:```\w*\s*)?(?:<\|im_end\|>)?\s*")
# A quote ends a string if JSON continues after it: a colon, a closing bracket, or a comma and the
# start of another value. Other quotes belong to the label.
_ENDS = re.compile(r"""\s*(?:[:\]})]|,\s*(?:["'\[{(\d\-\]})]|[^\W\d]\w{0,40}:|\Z)|\Z)""")
_QUOTES = {quote: re.compile(rf"\\.|{quote}", re.DOTALL) for quote in "\"'"}
_HEX = "[0-9a-fA-F]"
_ESCAPE = re.compile(rf"\\(x{_HEX}{{2}}|u{_HEX}{{4}}|U00(?:0{_HEX}|10){_HEX}{{4}}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": ""}
_PARTNER = {"]": "[", "}": "{", ")": "("}
_JUNK = object()  # a value that is neither number, text nor container


class _Word(str):
    """A number or a bare word, in contrast to quoted text."""


class _Open:
    """A container that has not been closed yet."""

    __slots__ = ("items", "key", "kind", "start", "values")

    def __init__(self, kind: str, start: int):
        self.kind, self.start = kind, start
        self.values: list[Any] = []
        self.items: dict[str, Any] = {}
        self.key: str | None = None

    def add(self, value: Any) -> None:
        """Add a value: for the last key of an object, otherwise as an element of a list."""
        if self.kind == "{" and self.key is not None:
            self.items[self.key] = value
            self.key = None
        else:
            self.values.append(value)

    def name(self) -> None:
        """Handle a colon: the previous value is a key."""
        if self.kind == "{" and self.values and isinstance(self.values[-1], str):
            self.key = str(self.values.pop())

    def locates(self) -> bool:
        """Whether it is probably a location, or a list of locations."""
        names: set[Any] = {self.key, *self.items}
        for value in self.values:
            if isinstance(value, dict):
                names.update(value)
            elif isinstance(value, str) and self.kind == "{":
                names.add(value)
        return not KEYS.isdisjoint(names)


def read_json(text: str) -> Found:
    """Find objects with a box or a point at any depth; JSON or Python literals within prose."""
    forms: list[Form] = []
    stack: list[_Open] = []
    whole: list[tuple[int, int, list]] = []  # top-level lists
    many = dict.fromkeys("[{(", 0)
    at, expects = 0, False
    while at < len(text):
        if not stack:
            begin = _BEGINS.search(text, at)
            if begin is None:
                break
            at = begin.start()
        token = _TOKEN.match(text, at)
        assert token is not None  # the last alternative takes any character
        kind, said, start, at = token.lastgroup, token[0], at, token.end()
        if kind == "space":
            continue
        if kind == "open":
            if len(stack) == DEEPEST:  # brackets that never close: start again
                stack.clear()
                many = dict.fromkeys(many, 0)
            stack.append(_Open(said, start))
            many[said] += 1
        elif kind == "close" and many[_PARTNER[said]]:
            while True:  # inner brackets that were not closed end here too
                closed = stack.pop()
                many[closed.kind] -= 1
                forms += _forms(closed)
                if stack:
                    stack[-1].add(closed.items if closed.kind == "{" else closed.values)
                elif closed.kind == "[":
                    whole.append((closed.start, at, closed.values))
                if closed.kind == _PARTNER[said]:
                    break
        elif kind == "quote" and expects:
            end = _string_end(text, at, said)
            if end is None:
                break  # truncated inside a string
            stack[-1].add(_unescaped(text[at:end]))
            at = end + 1
        elif kind == "colon":
            stack[-1].name()
        elif kind in ("number", "word"):
            stack[-1].add(_Word(said))
        elif kind != "comma":
            stack[-1].add(_JUNK)
        expects = kind in ("open", "colon", "comma")
    cut = any(open_.locates() for open_ in stack)
    if len(whole) == 1 and not stack and not forms:
        forms += _bare(text, *whole[0])
    return Found(sorted(forms, key=lambda form: form.start), cut)


def _bare(text: str, start: int, end: int, values: list[Any]) -> Iterator[Form]:
    """Boxes of an answer that is only a list of numbers, fenced or not."""
    if _FENCE.fullmatch(text, 0, start) and _FENCE.fullmatch(text, end):
        yield from (Form(start, place, "") for place in _places(values, 4))


def _string_end(text: str, at: int, quote: str) -> int | None:
    for found in _QUOTES[quote].finditer(text, at):
        if found[0] == quote and _ENDS.match(text, found.end()):
            return found.start()
    return None


def _unescaped(text: str) -> str:
    """A string without its escapes; half a surrogate pair becomes U+FFFD."""
    if "\\" not in text:
        return text

    def character(escape: re.Match) -> str:
        code = escape[1]
        return chr(int(code[1:], 16)) if len(code) > 1 else _ESCAPED.get(code, code)

    whole = _ESCAPE.sub(character, text)
    return whole.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _forms(closed: _Open) -> Iterator[Form]:
    """The locations of one object, under any of its keys."""
    item = closed.items
    if not item:
        return
    label = _label(item)
    for keys, count in ((BOX_KEYS, 4), (POINT_KEYS, 2), (QUAD_KEYS, 8)):
        for key in keys:
            for place in _places(item.get(key), count):
                yield Form(closed.start, place, label)


def _label(item: dict[str, Any]) -> str:
    """The first label that is a text or a number; null and containers do not count."""
    for key in LABELS:
        value = item.get(key)
        if isinstance(value, _Word):
            if _NUMBER.fullmatch(value):
                return str(value)
        elif isinstance(value, str):
            return value
    return ""


def _places(value: Any, count: int) -> list[tuple[float, ...]]:
    """All locations in ``count`` numbers, in lists of them, or in corners written as pairs."""
    if not isinstance(value, list) or not value:
        return []
    numbers = _numbers(value)
    if numbers is not None:
        return [numbers] if len(numbers) == count else []
    rows = [_numbers(row) if isinstance(row, list) else None for row in value]
    whole = [row for row in rows if row is not None]
    if len(whole) < len(rows):
        return []
    if count > 2 and all(len(row) == 2 for row in whole):  # corners as pairs
        return [tuple(n for row in whole for n in row)] if 2 * len(whole) == count else []
    return whole if all(len(row) == count for row in whole) else []


def _numbers(values: list[Any]) -> tuple[float, ...] | None:
    """The values as finite numbers, quoted or not; None if one is not a number."""
    if not values or not all(isinstance(value, str) for value in values):
        return None
    if any(len(v) > LONGEST_NUMBER or not _NUMBER.fullmatch(v) for v in values):
        return None
    numbers = tuple(map(float, values))
    return numbers if all(abs(n) < float("inf") for n in numbers) else None


# ------------------------------------------------------------------ XML points, HTML boxes

_TAG = re.compile(r"<([a-zA-Z][\w-]*)")
_ATTRIBUTE = re.compile(r"""\s*([\w:.-]+)\s*=\s*("[^"]*"|'[^']*'|[^\s"'<>=]+)""")
_TAG_END = re.compile(r"\s*/?>")
_COORDINATE = re.compile(r"([xy])(\d{0,6})")
_ONE_OF = re.compile(r"[\s,;\[\]()]+")


def read_tags(text: str) -> Found:
    """``<point x= y= alt=>``, ``<points x1= y1= x2= ...>`` and HTML with ``data-bbox``."""
    forms: list[Form] = []
    at, cut = 0, False
    while found := _TAG.search(text, at):
        name, at = found[1].lower(), found.end()
        attributes: dict[str, str] = {}
        while attribute := _ATTRIBUTE.match(text, at):
            value = attribute[2]
            value = value[1:-1] if value[0] in "\"'" else value
            attributes.setdefault(attribute[1].lower(), _plain(value))
            at = attribute.end()
        end = _TAG_END.match(text, at)
        if end is None:
            last = text.find("<", at) < 0
            cut = cut or (last and bool(attributes) and name in ("point", "points"))
            continue
        at = end.end()
        inside = _plain(text[at : _next(text, "<", at)]).strip()
        if name in ("point", "points"):
            label = attributes.get("alt", "").strip() or inside
            forms += [Form(found.start(), place, label) for place in _xml_points(attributes)]
        for key, count in (("data-bbox", 4), ("data-polygon", 8)):
            place = _numbers([part for part in _ONE_OF.split(attributes.get(key, "")) if part])
            if place is not None and len(place) == count:
                label = inside or attributes.get("class", "").strip()
                forms.append(Form(found.start(), place, label))
    return Found(forms, cut)


def _plain(text: str) -> str:
    """Text with its XML entities resolved."""
    try:
        return html.unescape(text)
    except ValueError:  # an entity of thousands of digits
        return text


def _next(text: str, what: str, at: int) -> int:
    found = text.find(what, at)
    return len(text) if found < 0 else found


def _xml_points(attributes: dict[str, str]) -> Iterator[tuple[float, ...]]:
    """The pairs x, y and x1, y1 and x2, y2 ... in numerical order."""
    halves: dict[str, dict[str, str]] = {}
    for name, value in attributes.items():
        if coordinate := _COORDINATE.fullmatch(name):
            halves.setdefault(coordinate[2], {})[coordinate[1]] = value
    for _, pair in sorted(halves.items(), key=lambda half: int(half[0] or 0)):
        place = _numbers([pair.get("x", ""), pair.get("y", "")])
        if place is not None:
            yield place


# ------------------------------------------------------------------ Qwen2-VL's special tokens

_MARKS = re.compile(
    r"<\|(?P<what>object_ref|box|quad)_(?P<side>start|end)\|>"
    r"|\(\s{0,9}(\d{1,40}(?:\.\d{1,40})?)\s{0,9},\s{0,9}(\d{1,40}(?:\.\d{1,40})?)\s{0,9}\)"
)
_BETWEEN = re.compile(r"[\s,;]*")


class _Tagged:
    """State of the parser for special tokens: last label, open tag, its pairs of numbers."""

    def __init__(self, text: str):
        self.text = text
        self.forms: list[Form] = []
        self.label, self.label_start = "", -1
        self.reaches = -1  # the label's box begins here, but for commas and spaces; -1: no label
        self.inside: str | None = None
        self.opened = 0  # where the open tag begins
        self.pairs: list[tuple[int, int, tuple[float, float]]] = []  # start, end, (x, y)

    def near(self, end: int, start: int) -> bool:
        """Whether there are only commas and spaces between two positions."""
        return 0 <= end <= start and _BETWEEN.fullmatch(self.text, end, start) is not None

    def flush(self, end: int) -> None:
        """Emit the complete pairs: boxes of two, a point of one, or a quadrilateral of four."""
        pairs, self.pairs = self.pairs, []
        if not pairs:
            return
        start = self.opened if self.inside else pairs[0][0]
        if not self.near(self.reaches, start):
            self.reaches = -1
        label = self.label if self.reaches >= 0 else ""
        places: list[tuple[float, ...]]
        if self.inside == "quad":
            places = [tuple(n for _, _, pair in pairs for n in pair)] if len(pairs) == 4 else []
        elif self.inside == "box" and len(pairs) == 1:
            places = [pairs[0][2]]
        else:
            both = zip(pairs[::2], pairs[1::2], strict=False)
            places = [(*first[2], *second[2]) for first, second in both]
        self.forms += [Form(start, place, label) for place in places]
        if self.reaches >= 0:
            self.reaches = max(end, pairs[-1][1])


def read_special_tokens(text: str) -> Found:
    """Qwen2-VL's form: corners after the label of an object; without tags, only pairs of corners.

    Several boxes after one label all get this label. Four pairs between quad tags are the corners
    of a quadrilateral.
    """
    state = _Tagged(text)
    for mark in _MARKS.finditer(text):
        what, start, end = mark["what"], mark.start(), mark.end()
        if what is None:
            if state.inside is None and state.pairs and not state.near(state.pairs[-1][1], start):
                state.flush(-1)
            state.pairs.append((start, end, (float(mark[3]), float(mark[4]))))
            continue
        state.flush(end if mark["side"] == "end" else -1)
        begins = mark["side"] == "start"
        if what != "object_ref":
            state.inside, state.opened = (what, start) if begins else (None, start)
        elif begins:
            state.inside, state.label_start, state.reaches = None, end, -1
        elif state.label_start >= 0:
            state.label, state.reaches = text[state.label_start : start].strip(), end
            state.label_start = -1
    cut = state.inside is not None
    whole_box = state.inside == "box" and len(state.pairs) % 2 == 0  # one may lack its second
    if state.inside is None or whole_box:
        state.flush(-1)
    return Found(state.forms, cut)
