"""Boxes and points of an answer, drawn on the picture that was asked about."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.patheffects import AbstractPathEffect, Stroke

from .style import COLOURS, FAINT, INK, Axes, Drawing, drawing, show_picture

_ORDER = (0, 1, 5, 3, 4, 7)  # of colours: no green beside orange or red
_LINES = ("-", "--", "-.", ":")
_FORMS = {"bbox_2d": 4, "point_2d": 2}


def read_answer(answer: str | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The boxes and points of a reply in Qwen2.5-VL's JSON; none where there is no such JSON.

    Each is {"bbox_2d": [x1, y1, x2, y2], "label": ...} or {"point_2d": [x, y], "label": ...}.
    Items of another form are left out.
    """
    found: Any = answer
    if isinstance(answer, str):
        try:
            found = json.loads(answer)
        except ValueError:
            return []
    items = [found] if isinstance(found, Mapping) else found
    if not isinstance(items, Sequence) or isinstance(items, str):
        return []
    return [dict(item) for item in items if isinstance(item, Mapping) and _form(item)]


def _form(item: Mapping[str, Any]) -> str | None:
    return next((f for f, count in _FORMS.items() if _numbers(item.get(f)) == count), None)


def _numbers(value: Any) -> int:
    """How many numbers a list holds; 0 when it is no list of numbers."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return 0
    return len(value) if all(isinstance(n, int | float) for n in value) else 0


def boxes(
    picture: Any,
    answer: str | Sequence[Mapping[str, Any]],
    truth: str | Sequence[Mapping[str, Any]] = (),
    grid: Any = None,
    patch: int = 14,
    title: str = "Where the answer points",
) -> Drawing:
    """The boxes and points of ``answer``, numbered and labelled, on the picture [H, W, 3].

    Qwen2.5-VL gives absolute pixels of the *resized* picture: give its ``grid`` (t, h, w) of
    patches when the picture had to be resized. ``truth`` is dotted in black, a point of it a
    diagonal cross. Look for how far the edges of the two lie apart; lines differ in style as well
    as in colour.
    """
    pixels = np.asarray(picture)
    height, width = pixels.shape[:2]
    scale = (1.0, 1.0)
    if grid is not None:
        scale = (width / (int(grid[2]) * patch), height / (int(grid[1]) * patch))
    items, right = read_answer(answer), read_answer(truth)
    size = (7.5, float(np.clip(7.0 * height / width + 0.6, 2.2, 6.5)))
    figure, axes = drawing(title, _alt(items, right), size=size)
    show_picture(axes, pixels)
    for number, item in enumerate(items):
        colour, line = COLOURS[_ORDER[number % len(_ORDER)]], _LINES[number % len(_LINES)]
        label = f"{number + 1} {item.get('label', '')}".strip()
        _draw(axes, _scaled(item, scale), colour, line, 2.4, label)
    for item in right:  # on top: where both are the same, both are seen
        _draw(axes, _scaled(item, scale), "black", ":", 1.3, "")
    if not items:
        axes.text(
            width / 2, height / 2, "no box in the answer", ha="center", fontsize=10, bbox=_PLATE
        )
    return figure


_PLATE = {"facecolor": "white", "edgecolor": "none", "boxstyle": "round,pad=0.2", "alpha": 0.9}


def _scaled(item: Mapping[str, Any], scale: tuple[float, float]) -> dict[str, Any]:
    form = _form(item)
    assert form is not None
    return {**item, form: [v * scale[i % 2] for i, v in enumerate(item[form])]}


def _draw(
    axes: Axes, item: Mapping[str, Any], colour: str, line: str, width: float, label: str
) -> None:
    wider = width + (2.2 if label else 0.0)
    halo: list[AbstractPathEffect] = [
        Stroke(linewidth=wider, foreground="white"),
        Stroke(linewidth=width),
    ]
    if _form(item) == "bbox_2d":
        x, y, x2, y2 = item["bbox_2d"]
        for ink, wide, style in (("white", wider, "-"), (colour, width, line)):
            axes.add_patch(
                Rectangle((x, y), x2 - x, y2 - y, fill=False, color=ink, lw=wide, linestyle=style)
            )
    else:
        x, y = item["point_2d"]
        (mark,) = axes.plot(x, y, "+" if label else "x", color=colour, markersize=11)
        mark.set_markeredgewidth(width)
        mark.set_path_effects(halo)
    if label:
        above = y > 0.06 * abs(np.diff(axes.get_ylim())[0])
        axes.annotate(
            label, (x, y), xytext=(0, 5 if above else -5), textcoords="offset points",
            ha="left" if x < 0.75 * axes.get_xlim()[1] else "center", fontsize=8.5,
            va="bottom" if above else "top", color="black", bbox=_PLATE,
        )  # fmt: skip


def _alt(items: Sequence[Mapping[str, Any]], right: Sequence[Mapping[str, Any]]) -> str:
    if not items:
        return "The picture; the answer holds no box and no point."
    told = [_tell(item) for item in items[:4]]
    more = f" and {len(items) - 4} more" if len(items) > 4 else ""
    dotted = f" Dotted: {len(right)} of the truth." if right else ""
    return f"The picture with {'; '.join(told)}{more}.{dotted}"


def _tell(item: Mapping[str, Any]) -> str:
    name = item.get("label", "no name")
    if _form(item) == "bbox_2d":
        x1, y1, x2, y2 = item["bbox_2d"]
        return f"a box for {name} from ({x1}, {y1}) to ({x2}, {y2})"
    return f"a point for {name} at ({item['point_2d'][0]}, {item['point_2d'][1]})"


def gallery(
    pictures: Sequence[Any],
    captions: Sequence[str] = (),
    columns: int = 3,
    title: str = "Pictures",
) -> Drawing:
    """Pictures [H, W, 3] of any sizes in rows of ``columns``, each with its caption below."""
    captions = [*captions, *[""] * (len(pictures) - len(captions))]
    rows = -(-len(pictures) // columns)
    told = "; ".join(caption.replace("\n", " ") for caption in captions[:6] if caption)
    alt = f"{len(pictures)} pictures{': ' + told if told else ''}."
    figure, axes = drawing(
        title, alt, rows, columns, size=(7.5, 2.45 * rows + 0.4), squeeze=False
    )  # fmt: skip
    for each in np.ravel(axes):
        each.set_axis_off()
    for each, picture, caption in zip(np.ravel(axes), pictures, captions, strict=False):
        show_picture(each, picture)
        label = "\n".join(wrap(caption, 132 // columns))
        each.set_xlabel(label, fontsize=8, labelpad=4, color=INK)
        each.set_axis_on(), each.set_xticks([]), each.set_yticks([])
        each.spines[:].set_visible(True)
        each.spines[:].set_color(FAINT)
    return figure
