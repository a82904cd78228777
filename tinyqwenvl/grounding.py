"""Answers -> boxes and points on the image, in all the forms that the published models write.

- Qwen2.5-VL: JSON, bare or fenced, ``{"bbox_2d": [x1, y1, x2, y2], "label": ...}`` or
  ``{"point_2d": [x, y], ...}``, in pixels of the *resized* image.
- Qwen2-VL: ``<|object_ref_start|>label<|object_ref_end|><|box_start|>(x1,y1),(x2,y2)<|box_end|>``,
  in thousandths of the width and the height. Its quadrilaterals (``<|quad_start|>``) are left out.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from .deprecated import old_names

LABELS = ("label", "text_content", "sub_label")  # in published answers, the first that is there
THOUSANDTHS = 1000
# Okabe & Ito: told apart with every kind of colour vision; and the letters that read on them.
INKS = (
    ("#0072B2", "white"),
    ("#E69F00", "black"),
    ("#009E73", "white"),
    ("#CC79A7", "black"),
    ("#D55E00", "white"),
    ("#56B4E9", "black"),
)

_NUMBERS = r"\(\s*(\d+(?:\.\d+)?)\s*,\s*(\d+(?:\.\d+)?)\s*\)"
_QUAD = re.compile(r"<\|quad_start\|>.*?(?:<\|quad_end\|>|\Z)", re.DOTALL)
_TAGGED = re.compile(
    r"(?:<\|object_ref_start\|>(?P<label>(?:(?!<\|object_ref).)*)<\|object_ref_end\|>\s*)?"
    rf"(?:<\|box_start\|>)?{_NUMBERS}(?:\s*,\s*{_NUMBERS})?(?:<\|box_end\|>)?",
    re.DOTALL,
)


class Location(NamedTuple):
    """A box (x1, y1, x2, y2) or a point (x, y) of an answer, and what the answer calls it."""

    place: tuple[float, ...]
    label: str = ""

    @property
    def is_point(self) -> bool:
        """Whether this is a point, not a box."""
        return len(self.place) == 2

    def scaled(self, across: float, down: float) -> Location:
        """The same with x times ``across`` and y times ``down``."""
        return self._replace(
            place=tuple(n * (down if i % 2 else across) for i, n in enumerate(self.place))
        )


def locations(answer: str, resized: tuple[int, int], original: tuple[int, int]) -> list[Location]:
    """All boxes and points of an answer, in order, in pixels of the original image.

    ``resized`` and ``original`` are (width, height) in pixels. Give the answer with its control
    tokens where there are any. What has no such form is left out; an answer that was cut off keeps
    the objects that are complete. Corners come out in order, within the image.
    """
    width, height = original
    found = [mark.scaled(width / resized[0], height / resized[1]) for mark in _json(answer)]
    if not found:
        found = [m.scaled(width / THOUSANDTHS, height / THOUSANDTHS) for m in _tagged(answer)]
    return [_within(mark, width, height) for mark in found]


def _json(answer: str) -> Iterator[Location]:
    """Every complete object in the text that has a box or a point, whatever stands around it."""
    decoder, at = json.JSONDecoder(), answer.find("{")
    while at >= 0:
        try:
            item, end = decoder.raw_decode(answer, at)
        except (ValueError, RecursionError):
            item, end = {}, at + 1
        label = next((str(item[name]) for name in LABELS if name in item), "")
        places = [(item.get("bbox_2d"), 4), (item.get("point_2d"), 2)]
        own = [place for place, numbers in places if _are_numbers(place, numbers)]
        yield from (Location(tuple(map(float, place)), label) for place in own)
        at = answer.find("{", end if own else at + 1)


def _are_numbers(place: Any, count: int) -> bool:
    return (
        isinstance(place, list)
        and len(place) == count
        and all(type(n) in (int, float) and abs(n) <= sys.float_info.max for n in place)
    )


def _tagged(answer: str) -> Iterator[Location]:
    """Qwen2-VL's corners; a single pair of numbers is a point only between its special tokens."""
    for found in _TAGGED.finditer(_QUAD.sub("", answer)):
        x1, y1, x2, y2 = found.groups()[1:]
        label = (found["label"] or "").strip()
        if x2 is not None:
            yield Location((float(x1), float(y1), float(x2), float(y2)), label)
        elif "<|box_start|>" in found[0]:
            yield Location((float(x1), float(y1)), label)


def _within(mark: Location, width: int, height: int) -> Location:
    xs = sorted(min(max(x, 0.0), float(width)) for x in mark.place[::2])
    ys = sorted(min(max(y, 0.0), float(height)) for y in mark.place[1::2])
    return mark._replace(place=tuple(n for pair in zip(xs, ys, strict=True) for n in pair))


def draw(image: Image.Image, found: Sequence[Location]) -> Image.Image:
    """A copy of the image with its boxes and points, numbered where there are several.

    Every line has a white edge, so that it is seen on any ground.
    """
    drawn = image.convert("RGB")
    pen = ImageDraw.Draw(drawn)
    line = max(2, round(max(drawn.size) / 250))
    font = ImageFont.load_default(size=max(11.0, max(drawn.size) / 45))
    for number, mark in enumerate(found, start=1):
        ink, letters = INKS[(number - 1) % len(INKS)]
        x, y = mark.place[:2]
        if mark.is_point:
            for size, colour in ((4 * line, "white"), (3 * line, ink)):
                pen.ellipse((x - size, y - size, x + size, y + size), fill=colour)
        else:
            pen.rectangle(_around(mark.place, line), outline="white", width=3 * line)
            pen.rectangle(mark.place, outline=ink, width=line)
        words = [str(number)] * (len(found) > 1) + [mark.label] * bool(mark.label)
        if words:
            above = 5 * line if mark.is_point else 2 * line
            _label(pen, " ".join(words), (x, y, above), ink, letters, font)
    return drawn


def _around(box: tuple[float, ...], line: int) -> tuple[float, ...]:
    return (box[0] - line, box[1] - line, box[2] + line, box[3] + line)


def _label(
    pen: ImageDraw.ImageDraw,
    text: str,
    place: tuple[float, float, float],
    ink: str,
    letters: str,
    font: Any,
) -> None:
    """Letters on the colour of the mark, ``place[2]`` pixels above it, or below at the very top."""
    x, y, above = place
    shown = "".join(c if c.isprintable() else " " for c in text)[:60]
    left, top, right, bottom = pen.textbbox((0, 0), shown, font=font)
    wide, high = right - left + 6, bottom - top + 6
    x = min(x, max(0.0, pen.im.size[0] - wide))
    y = y - high - above if y - high - above >= 0 else y + above
    pen.rectangle((x, y, x + wide, y + high), fill=ink)
    pen.text((x + 3 - left, y + 3 - top), shown, fill=letters, font=font)


old_names(globals())
