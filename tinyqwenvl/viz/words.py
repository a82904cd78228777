"""Tokens as labels: only characters that the font of the figures can draw."""

from __future__ import annotations

from functools import cache

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font


@cache
def _letters() -> frozenset[int]:
    """The characters that the font of the figures has."""
    return frozenset(FT2Font(font_manager.findfont("DejaVu Sans")).get_charmap())


def readable(word: str) -> str:
    """A token's text as a label: spaces around it dropped, nothing that the font cannot draw."""
    if not word.strip():
        return {"": "(none)", "\n": "(line)"}.get(word, "(space)")
    return drawable(word.strip())


def drawable(text: str) -> str:
    """The text with the codes of characters that the font lacks, and with dollars as they are."""
    letters = (c if ord(c) in _letters() else f"U+{ord(c):04X}" for c in text)
    return "".join(letters).replace("$", r"\$")
