"""Figures of prompts: their tokens as cells, and the layout of ids in a vocabulary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from ..chat import IM_END, IM_START, IMAGE_PAD, VIDEO_PAD
from ..tokenizer import ADDED_TOKENS, SpecialToken, Tokenizer
from .style import COLOURS, FAINT, INK, PAPER, Drawing, drawing

# Ground, letters, and the edge of each kind of cell: lightness and edge tell them apart as well.
CELL_STYLES: dict[str, tuple[Any, Any, Any]] = {
    "special token": (COLOURS[0], PAPER, "-"),
    "template": ("#dcedf8", INK, "--"),
    "text": (PAPER, INK, "-"),
    "placeholder": ("#f3c766", INK, ":"),
}
_ROW = 100  # characters in a row of cells
_SEEN = {" ": "·", "\n": "↵", "\r": "␍", "\t": "⇥"}  # what cannot be seen otherwise


class Cell(NamedTuple):
    """One cell of a strip: its text, the id under it, the kind of token, and how many."""

    text: str  # in visible characters
    number: int  # token id
    kind: str  # a key of CELL_STYLES
    tokens: int  # 1, or the length of a run


def token_text(tokenizer: Tokenizer, number: int) -> str:
    """One token in visible characters: a dot for a space, hex for part of a character."""
    text = tokenizer.decode([number], skip_special=False)
    if "\ufffd" in text:
        held = map(_BYTES.get, tokenizer.backend.id_to_token(number))
        return "".join(f"{byte:02X}" for byte in held if byte is not None)
    drawn = (c.isprintable() and ord(c) < 0x2500 for c in text)
    shown = (
        _SEEN.get(c) or (c if fine else f"U+{ord(c):04X}")
        for c, fine in zip(text, drawn, strict=True)
    )
    return "".join(shown)


def token_cells(pieces: Sequence[str], tokenizer: Tokenizer, alike: int = 3) -> list[Cell]:
    """The cells of :func:`token_strip`: one per token, but a long run of placeholders is one."""
    ids, parts = tokenizer.encode_parts(pieces)
    cells = [
        Cell(token_text(tokenizer, number), number, _kind(pieces, part), 1)
        for number, part in zip(ids.tolist(), parts.tolist(), strict=True)
    ]
    short: list[Cell] = []
    for cell, same in groupby(cells):
        run = list(same)
        if cell.kind == "placeholder" and len(run) > alike:
            run = [cell._replace(text=f"{cell.text} × {len(run)}", tokens=len(run))]
        short += run
    return short


def token_strip(
    pieces: Sequence[str], tokenizer: Tokenizer, title: str = "", alike: int = 3
) -> Drawing:
    """The tokens of a prompt as labelled cells, to be read like lines of text.

    ``pieces`` are those of :func:`chat.render` (or ``expand``, or ``obey``). Above is the text of a
    token, below its id. A dot is a space, a hooked arrow a line end, hex digits are bytes that are
    no whole character. More than ``alike`` equal placeholders in a row become one cell. Look for
    what the model receives that the user did not write: special tokens, roles, placeholders.
    """
    cells = token_cells(pieces, tokenizer, alike)
    rows = _rows(cells)
    counts: Counter[str] = Counter()
    for cell in cells:
        counts[cell.kind] += cell.tokens
    said = ", ".join(f"{counts[kind]} {_plural(kind, counts[kind])}" for kind in CELL_STYLES)
    words = " ".join(f"[{cell.text}]" for cell in cells[:60])
    alt = f"{counts.total()} tokens as cells: {said}. In order: {words}"
    alt += " and so on." if len(cells) > 60 else "."
    size = 7.5, 0.95 + 0.44 * max(len(rows), 1)
    figure, axes = drawing(title or f"{counts.total()} tokens", alt, size=size)
    axes.set(xlim=(-0.3, _ROW + 0.3), ylim=(max(len(rows), 1) - 0.02, -0.06))
    axes.set_axis_off()
    for y, row in enumerate(rows):
        x = 0.0
        for cell in row:
            _draw(axes, cell, x, y)
            x += _width(cell)
    legend = [
        Patch(facecolor=ground, edgecolor=INK, linestyle=edge, label=f"{kind}: {counts[kind]}")
        for kind, (ground, _, edge) in CELL_STYLES.items()
    ]
    figure.legend(handles=legend, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure


def id_map(vocabularies: Mapping[str, tuple[int, int]]) -> Drawing:
    """Ids by range: the pieces of text first, then the 22 added tokens, then entries without one.

    ``vocabularies``: name -> (id of the first added token, size of the embedding). Look at the
    order, which is the same in every vocabulary, and at the numbers, which are not: an id means
    nothing without its tokenizer.
    """
    added = len(ADDED_TOKENS)
    names, columns = ["bytes, and merges of them", *ADDED_TOKENS, "entries without a token"], []
    for first, rows in vocabularies.values():
        spare = rows - first - added
        ids = [f"0 to {first - 1:,}", *(f"{first + i:,}" for i in range(added))]
        columns.append([*ids, f"{first + added:,} to {rows - 1:,}" if spare else "none"])
    alt = "A table of ids. " + " ".join(
        f"{name}: text has {ids[0]}, the {added} added tokens have {ids[1]} to {ids[-2]}, "
        f"{IMAGE_PAD} is {ids[1 + ADDED_TOKENS.index(IMAGE_PAD)]}, "
        f"entries without a token: {ids[-1]}."
        for name, ids in zip(vocabularies, columns, strict=True)
    )
    figure, axes = drawing("Ids by range", alt, size=(7.0, 0.21 * len(names) + 0.8))
    axes.set(xlim=(0, 1), ylim=(len(names) - 0.4, -1.6))
    axes.set_axis_off()
    places = [0.42 + 0.58 * (i + 0.5) / len(columns) for i in range(len(columns))]
    for x, name in zip(places, vocabularies, strict=True):
        axes.text(x, -1, name, ha="center", va="center", fontsize=9, weight="bold", color=INK)
    for y, name in enumerate(names):
        _stripe(axes, y, _row_kind(name))
        plain: dict[str, Any] = dict(va="center", color=INK, parse_math=False)
        family = "monospace" if name in ADDED_TOKENS else "sans-serif"
        axes.text(0.02, y, name, fontsize=8, family=family, **plain)
        for x, ids in zip(places, columns, strict=True):
            axes.text(x, y, ids[y], ha="center", fontsize=8, family="monospace", **plain)
    return figure


def _kind(pieces: Sequence[str], part: int) -> str:
    """What kind of token a piece holds: what comes right after an im token is the template's."""
    piece = pieces[part]
    if isinstance(piece, SpecialToken):
        return "placeholder" if piece in (IMAGE_PAD, VIDEO_PAD) else "special token"
    before = pieces[part - 1] if part else ""
    ours = isinstance(before, SpecialToken) and before in (IM_START, IM_END)
    return "template" if ours else "text"


def _rows(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells in lines of at most ``_ROW`` characters."""
    rows: list[list[Cell]] = []
    room = 0.0
    for cell in cells:
        room -= _width(cell)
        if room < 0:
            rows.append([])
            room = _ROW - _width(cell)
        rows[-1].append(_fitted(cell))
    return rows


def _fitted(cell: Cell) -> Cell:
    most = _ROW - 4
    return cell if len(cell.text) <= most else cell._replace(text=cell.text[: most - 1] + "…")


def _width(cell: Cell) -> float:
    return min(max(len(cell.text), len(str(cell.number))) + 1.6, _ROW)


def _draw(axes: Axes, cell: Cell, x: float, y: int) -> None:
    ground, ink, edge = CELL_STYLES[cell.kind]
    box = Rectangle((x + 0.15, y), _width(cell) - 0.3, 0.56, facecolor=ground, linestyle=edge)
    box.set(edgecolor=INK if cell.kind != "text" else "#777777", linewidth=0.9)
    axes.add_patch(box)
    middle = x + _width(cell) / 2
    name: dict[str, Any] = dict(
        ha="center", va="center", fontsize=8, family="monospace", parse_math=False
    )
    axes.text(middle, y + 0.27, cell.text, color=ink, **name)
    name |= dict(fontsize=7)
    axes.text(middle, y + 0.75, str(cell.number), color="#555555", **name)


def _row_kind(name: str) -> str:
    if name in (IMAGE_PAD, VIDEO_PAD):
        return "placeholder"
    return "special token" if name in ADDED_TOKENS else "text"


def _stripe(axes: Axes, y: int, kind: str) -> None:
    ground = {"placeholder": CELL_STYLES["placeholder"][0], "special token": "#dcedf8"}.get(
        kind, PAPER
    )
    axes.add_patch(Rectangle((0, y - 0.5), 1, 1, facecolor=ground, edgecolor=FAINT, linewidth=0.5))


def _plural(kind: str, count: int) -> str:
    return kind + "s" if count != 1 and kind in ("special token", "placeholder") else kind


def _byte_alphabet() -> dict[str, int]:
    """The letters that stand for bytes in a byte-level vocabulary (as in GPT-2)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(rest)}


_BYTES = _byte_alphabet()
