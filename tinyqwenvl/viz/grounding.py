"""Draw the boxes and points of an answer on its image."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.patches import Patch, Polygon, Rectangle
from matplotlib.patheffects import AbstractPathEffect, Stroke

from ..grounding import Location, locations
from .style import COLOURS, FAINT, INK, Axes, Drawing, drawing, show_image

_ORDER = (0, 1, 5, 3, 4, 7)  # of colours: no green beside orange or red
_LINES = ("-", "--", "-.", ":")


def boxes(
    image: Any,
    answer: str,
    truth: Sequence[Location] = (),
    grid: Any = None,
    patch: int = 14,
    title: str = "Bounding boxes and points of the answer",
) -> Drawing:
    """The boxes and points of ``answer``, numbered and labelled, on the image [H, W, 3].

    Answers are read by :func:`~tinyqwenvl.grounding.locations`. Qwen2.5-VL gives pixels of the
    *resized* image: give its ``grid`` (t, h, w) of patches when the image had to be resized.
    ``truth``, in pixels of the image, is dotted in black; its points are diagonal crosses. Look
    for how far the edges of the two lie apart; lines differ in style as well as in colour.
    """
    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    resized = (width, height) if grid is None else (int(grid[2]) * patch, int(grid[1]) * patch)
    found = locations(answer, resized, (width, height))
    size = (7.5, float(np.clip(7.0 * height / width + 0.6, 2.2, 6.5)))
    figure, axes = drawing(title, _alt(found, truth), size=size)
    show_image(axes, pixels)
    for number, location in enumerate(found):
        colour, line = COLOURS[_ORDER[number % len(_ORDER)]], _LINES[number % len(_LINES)]
        _draw(axes, location, colour, line, 2.4, f"{number + 1} {location.label}".strip())
    for location in truth:  # on top: where both coincide, both are visible
        _draw(axes, location, "black", ":", 1.3, "")
    if not found:
        axes.text(
            width / 2, height / 2, "no box in the answer", ha="center", fontsize=10, bbox=_PLATE
        )
    return figure


_PLATE = {"facecolor": "white", "edgecolor": "none", "boxstyle": "round,pad=0.2", "alpha": 0.9}


def _draw(axes: Axes, location: Location, colour: str, line: str, width: float, label: str) -> None:
    wider = width + (2.2 if label else 0.0)
    halo: list[AbstractPathEffect] = [
        Stroke(linewidth=wider, foreground="white"),
        Stroke(linewidth=width),
    ]
    x, y = location.place[:2]
    if not location.is_point:
        for ink, wide, style in (("white", wider, "-"), (colour, width, line)):
            axes.add_patch(_outline(location, fill=False, color=ink, lw=wide, linestyle=style))
    else:
        (cross,) = axes.plot(x, y, "+" if label else "x", color=colour, markersize=11)
        cross.set_markeredgewidth(width)
        cross.set_path_effects(halo)
    if label:
        above = y > 0.06 * abs(np.diff(axes.get_ylim())[0])
        axes.annotate(
            label, (x, y), xytext=(0, 5 if above else -5), textcoords="offset points",
            ha="left" if x < 0.75 * axes.get_xlim()[1] else "center", fontsize=8.5,
            va="bottom" if above else "top", color="black", bbox=_PLATE,
        )  # fmt: skip


def _outline(location: Location, **look: Any) -> Patch:
    """A rectangle, or the quadrilateral of four corners."""
    if location.kind == "quad":
        return Polygon(np.reshape(location.place, (4, 2)), closed=True, **look)
    x1, y1, x2, y2 = location.place
    return Rectangle((x1, y1), x2 - x1, y2 - y1, **look)


def _alt(found: Sequence[Location], truth: Sequence[Location]) -> str:
    if not found:
        return "The image; the answer has no box and no point."
    summaries = [_tell(location) for location in found[:4]]
    more = f" and {len(found) - 4} more" if len(found) > 4 else ""
    dotted = f" Dotted: the ground truth, {len(truth)} in all." if truth else ""
    return f"The image with {'; '.join(summaries)}{more}.{dotted}"


def _tell(location: Location) -> str:
    name, place = location.label or "no name", [f"{n:.0f}" for n in location.place]
    if location.is_point:
        return f"a point for {name} at ({place[0]}, {place[1]})"
    if location.kind == "quad":
        return (
            f"a quadrilateral for {name} from ({place[0]}, {place[1]}) to ({place[4]}, {place[5]})"
        )
    return f"a box for {name} from ({place[0]}, {place[1]}) to ({place[2]}, {place[3]})"


def gallery(
    images: Sequence[Any],
    captions: Sequence[str] = (),
    columns: int = 3,
    title: str = "Images",
) -> Drawing:
    """Images [H, W, 3] of any sizes in rows of ``columns``, each with its caption below."""
    captions = [*captions, *[""] * (len(images) - len(captions))]
    rows = -(-len(images) // columns)
    summaries = "; ".join(
        caption.replace("\n", " ").rstrip(".") for caption in captions[:6] if caption
    )
    many = "One image" if len(images) == 1 else f"{len(images)} images"
    alt = f"{title}. {many}{': ' + summaries if summaries else ''}."
    figure, axes = drawing(
        title, alt, rows, columns, size=(7.5, 2.45 * rows + 0.4), squeeze=False
    )  # fmt: skip
    for each in np.ravel(axes):
        each.set_axis_off()
    for each, image, caption in zip(np.ravel(axes), images, captions, strict=False):
        show_image(each, image)
        label = "\n".join(wrap(caption, 132 // columns))
        each.set_xlabel(label, fontsize=8, labelpad=4, color=INK)
        each.set_axis_on(), each.set_xticks([]), each.set_yticks([])
        each.spines[:].set_visible(True)
        each.spines[:].set_color(FAINT)
    return figure
