"""Read bounding boxes and points from answers, in every form that the published models write.

In pixels of the *resized* image (Qwen2.5-VL):

- JSON, bare, fenced or amid prose: ``{"bbox_2d": [x1, y1, x2, y2], "label": ...}``,
  ``{"point_2d": [x, y], ...}``, and an agent's ``{"action": "left_click", "coordinate": [x, y]}``;
  also with single quotes, quoted coordinates, several locations in one list;
- XML: ``<points x1="10" y1="20" x2=... alt="cup">cup</points>``, ``<point x= y= alt=>``;
- documents as HTML: ``<p data-bbox="x1 y1 x2 y2">text</p>``.

In thousandths of the width and height, 0-1000 (Qwen2-VL):

- ``<|object_ref_start|>label<|object_ref_end|><|box_start|>(x1,y1),(x2,y2)<|box_end|>``, any number
  of boxes after one label; four corners between ``<|quad_start|>`` and ``<|quad_end|>``.

The sources of these forms are QwenLM's cookbooks (``spatial_understanding``, ``document_parsing``,
``computer_use``) and in the Qwen2-VL paper, section 2.2.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from .answer_forms import LABELS, read_json, read_special_tokens, read_tags
from .deprecated import old_names
from .errors import UserError

__all__ = ["INKS", "LABELS", "Location", "Reading", "draw", "locations", "read_answer"]

THOUSANDTHS = 1000
UNITS = ("pixels", "thousandths")
READERS = ((read_json, UNITS[0]), (read_tags, UNITS[0]), (read_special_tokens, UNITS[1]))
# Okabe & Ito's palette, distinct with every kind of colour vision, and a legible text colour each.
INKS = (
    ("#0072B2", "white"),
    ("#E69F00", "black"),
    ("#009E73", "white"),
    ("#CC79A7", "black"),
    ("#D55E00", "white"),
    ("#56B4E9", "black"),
)


class Location(NamedTuple):
    """A bounding box (x1, y1, x2, y2) or point (x, y) of an answer, with its label.

    Text may have a quadrilateral instead: four corners (x1, y1, ... x4, y4).
    """

    place: tuple[float, ...]  # coordinates, x and y alternating
    label: str = ""  # "" if the answer gives none

    @property
    def is_point(self) -> bool:
        """Whether this is a point rather than a box."""
        return len(self.place) == 2

    @property
    def kind(self) -> str:
        """What the coordinates are: "point", "box" or "quad"."""
        return {2: "point", 4: "box", 8: "quad"}[len(self.place)]

    @property
    def bounds(self) -> tuple[float, ...]:
        """The smallest enclosing box (x1, y1, x2, y2)."""
        xs, ys = self.place[::2], self.place[1::2]
        return (min(xs), min(ys), max(xs), max(ys))

    def scaled(self, across: float, down: float) -> Location:
        """A copy with x scaled by ``across`` and y by ``down``."""
        return self._replace(
            place=tuple(n * (down if i % 2 else across) for i, n in enumerate(self.place))
        )


class Reading(NamedTuple):
    """The locations of an answer, and whether it ends in the middle of one."""

    locations: list[Location]  # in order, in pixels of the original image
    cut: bool  # True if the answer ends within a location


def locations(
    answer: str, resized: tuple[int, int], original: tuple[int, int], unit: str | None = None
) -> list[Location]:
    """All boxes and points of an answer, in order, in pixels of the original image.

    ``resized`` and ``original`` are (width, height) in pixels. Pass the answer with its special
    tokens, if it has any. Other text is ignored; a truncated answer keeps its complete objects.
    Corners are sorted and clipped to the image. ``unit`` is the unit of the coordinates: "pixels"
    of the resized image, or "thousandths". By default the form decides, as in the list above.
    Raises UserError for another ``unit``.
    """
    return read_answer(answer, resized, original, unit).locations


def read_answer(
    answer: str, resized: tuple[int, int], original: tuple[int, int], unit: str | None = None
) -> Reading:
    """:func:`locations`, plus whether the answer was truncated."""
    if unit not in (None, *UNITS):
        raise UserError(f"unit is {unit!r}; it must be one of {', '.join(UNITS)}")
    readings = [(read(answer), own) for read, own in READERS]
    nothing = readings[0]
    # the first reader that finds anything wins: labels may contain the other forms
    found, own = next((reading for reading in readings if reading[0].forms), nothing)
    cut = found.cut if found.forms else any(reading.cut for reading, _ in readings)
    base = (THOUSANDTHS, THOUSANDTHS) if (unit or own) == "thousandths" else resized
    across, down = original[0] / base[0], original[1] / base[1]
    scaled = [Location(form.place, form.label).scaled(across, down) for form in found.forms]
    return Reading([_within(location, *original) for location in scaled], cut)


def _within(found: Location, width: int, height: int) -> Location:
    """Clip a location to the image; sort the corners of a box, but not of a quadrilateral."""
    xs = [min(max(x, 0.0), float(width)) for x in found.place[::2]]
    ys = [min(max(y, 0.0), float(height)) for y in found.place[1::2]]
    if found.kind == "box":
        xs, ys = sorted(xs), sorted(ys)
    return found._replace(place=tuple(n for pair in zip(xs, ys, strict=True) for n in pair))


def draw(image: Image.Image, found: Sequence[Location]) -> Image.Image:
    """Draw boxes and points on a copy of the image, numbered if there are several.

    Every line has a white edge, so that it is visible on any background.
    """
    drawn = image.convert("RGB")
    pen = ImageDraw.Draw(drawn)
    line = max(2, round(max(drawn.size) / 250))
    font = ImageFont.load_default(size=max(11.0, max(drawn.size) / 45))
    for number, location in enumerate(found, start=1):
        ink, letters = INKS[(number - 1) % len(INKS)]
        x, y = location.place[:2]
        if location.is_point:
            for size, colour in ((4 * line, "white"), (3 * line, ink)):
                pen.ellipse((x - size, y - size, x + size, y + size), fill=colour)
        elif location.kind == "quad":
            ring = (*location.place, *location.place[:4])  # one extra corner: draws all joints
            pen.line(ring, fill="white", width=3 * line, joint="curve")
            pen.line(ring, fill=ink, width=line, joint="curve")
        else:
            pen.rectangle(_around(location.place, line), outline="white", width=3 * line)
            pen.rectangle(location.place, outline=ink, width=line)
        words = [str(number)] * (len(found) > 1) + [location.label] * bool(location.label)
        if words:
            above = 5 * line if location.is_point else 2 * line
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
    """Draw a label ``place[2]`` pixels above its location, or below it at the top edge."""
    x, y, above = place
    shown = "".join(c if c.isprintable() else " " for c in text)[:60]
    left, top, right, bottom = pen.textbbox((0, 0), shown, font=font)
    wide, high = right - left + 6, bottom - top + 6
    x = min(x, max(0.0, pen.im.size[0] - wide))
    y = y - high - above if y - high - above >= 0 else y + above
    pen.rectangle((x, y, x + wide, y + high), fill=ink)
    pen.text((x + 3 - left, y + 3 - top), shown, fill=letters, font=font)


old_names(globals())
