"""Cutting frames into patches: the nine axes, the merge order, and the values of one patch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from .. import vision
from ..config import CLIP_MEAN, CLIP_STD
from ..dims import Array, Float, Int, UInt8
from .style import COLOURS, FAINT, INK, PAPER, SEQUENTIAL, Drawing, drawing

CHANNELS = ("red", "green", "blue")
NINE = (
    "time",
    "frame\nof pair",
    "channel",
    "group\nrow",
    "row in\ngroup",
    "y in\npatch",
    "group\ncolumn",
    "column\nin group",
    "x in\npatch",
)
NINE_SOURCE = (0, 0, 1, 2, 2, 2, 3, 3, 3)  # of F, C, H, W, the axis that each of the nine is cut of
NINE_ORDER = (0, 3, 6, 4, 7, 2, 1, 5, 8)  # as in image.patchify
MOST_NUMBERS = {"patches": 100, "tokens": 40}  # that are written into a figure


def merge_groups(
    grid_thw: Int[Array, "I 3"], merge: int = 2, images: Sequence[Any] | None = None
) -> Drawing:
    """Patches at their position in the frame, numbered in merge order.

    One panel per frame pair of each image. Neighbours in the order
    are joined by a line; the ``merge`` x ``merge`` patches of a token share a colour and a thick
    border. Where patches are too many or too small for their numbers, tokens are numbered instead;
    where those are, too, the first token of some rows and the last token. ``images``
    (one for each panel) are drawn pale underneath.
    """
    places = vision.patch_positions(grid_thw, merge)
    panels = [(i, t, h, w) for i, (many, h, w) in enumerate(grid_thw.tolist()) for t in range(many)]
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    points = min(38.0, 500 / columns / max(w for *_, w in panels))  # the width of a patch
    points = min(points, 480 / rows / max(h for _, _, h, _ in panels))
    numbers = _numbered(points, merge, len(places))
    shapes = " and ".join(sorted({f"{h} rows by {w} columns" for _, _, h, w in panels}))
    tall = rows * max(h for _, _, h, _ in panels) * points / 72
    tokens = len(places) // merge**2
    figure, axes = drawing(
        f"{len(places)} patches in merge order: {merge}x{merge} neighbours become a token",
        f"{len(panels)} grid{'s' * (len(panels) > 1)} of {shapes} of patches. "
        f"A path runs through the {merge**2} patches of one {merge}x{merge} merge group before it "
        f"goes on to the next group on the right, then to the next row of groups; {numbers} are "
        f"numbered, up to {(len(places) if numbers == 'patches' else tokens) - 1}.",
        rows,
        columns,
        (7.5, min(7.5, tall + 0.55 + 0.35 * rows)),
        squeeze=False,
    )
    start = 0
    for number, (i, t, h, w) in enumerate(panels):
        each = np.ravel(axes)[number]
        under = None if images is None else np.asarray(images[number])
        _merge_panel(each, places[start : start + h * w], start, (h, w), merge, numbers, under)
        name = f"image {i}, time {t}" if len(panels) > 1 else f"{h} x {w} patches"
        each.set_title(name, fontsize=9, color=INK)
        start += h * w
    for each in np.ravel(axes)[len(panels) :]:
        each.set_axis_off()
    return figure


def _numbered(points: float, merge: int, patches: int) -> str:
    """The cells whose numbers fit at 7 points of text, few enough to read."""
    for counted, what, room in (
        (patches, "patches", points),
        (patches // merge**2, "tokens", points * merge),
    ):
        if counted <= MOST_NUMBERS[what] and room >= max(4.6 * len(str(counted - 1)) + 2, 10):
            return what
    return "some tokens"


def _merge_panel(
    axes: Axes,
    places: Int[Array, "N 2"],
    start: int,
    size: tuple[int, int],
    merge: int,
    numbers: str,
    under: np.ndarray | None,
) -> None:
    """One frame of :func:`merge_groups`; its first patch is number ``start``."""
    height, width = size
    axes.set(xlim=(-0.05, width + 0.05), ylim=(height + 0.05, -0.05), aspect="equal")
    axes.set_axis_off()
    if under is not None:
        axes.imshow(under, extent=(0, width, height, 0), alpha=0.6, zorder=0)
    row, column = np.indices((height // merge, width // merge))
    tints = np.array([to_rgb(COLOURS[k]) for k in (4, 6, 3, 2)])[row % 2 * 2 + column % 2]
    pale = 0.4 if under is None else 0.25
    axes.imshow(tints, extent=(0, width, height, 0), alpha=pale, interpolation="nearest")
    border = 1.2 if numbers == "patches" else 0.6
    axes.vlines(np.arange(0, width + 1, merge), 0, height, color=INK, linewidth=border)
    axes.hlines(np.arange(0, height + 1, merge), 0, width, color=INK, linewidth=border)
    corners = places[:: merge**2]  # the first patch of a group is its upper left one
    last = int(np.max(corners[:, 0]))
    step = max(1, -(-(last // merge + 1) // 12))  # at most about a dozen rows are numbered
    for k, (y, x) in enumerate(corners.tolist()):
        token = start // merge**2 + k
        if numbers == "tokens":
            _label(axes, x + merge / 2, y + merge / 2, token)
        elif numbers != "patches" and x == 0 and (y // merge % step == 0 or y == last):
            _label(axes, 0.1, y + merge / 2, token, "left")
        elif k == len(corners) - 1 and numbers != "patches":
            _label(axes, x + merge - 0.1, y + merge / 2, token, "right")
    axes.plot(places[:, 1] + 0.5, places[:, 0] + 0.5, color=COLOURS[0], linewidth=0.7, alpha=0.6)
    axes.vlines(np.arange(width + 1), 0, height, color=INK, linewidth=0.25)
    axes.hlines(np.arange(height + 1), 0, width, color=INK, linewidth=0.25)
    if numbers == "patches":
        for k, (row, column) in enumerate(places.tolist()):
            _label(axes, column + 0.5, row + 0.5, start + k)


def _label(axes: Axes, x: float, y: float, number: int, side: str = "center") -> None:
    box = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.4, "alpha": 0.75}
    how: dict[str, Any] = {"fontsize": 7, "color": INK, "bbox": box}
    axes.text(x, y, str(number), ha=side, va="center", **how)


def nine_axes(
    frames: int,
    height: int,
    width: int,
    patch: int = 14,
    merge: int = 2,
    temporal: int = 2,
    order: Sequence[int] = NINE_ORDER,
) -> Drawing:
    """How patchify reorders its nine axes, for ``frames`` of ``height`` x ``width``.

    Top: the frames' four axes and the nine that they are cut into, with their lengths; bottom: the
    nine in the order of the patches, the first five for the index of a patch, the last four for
    its values. ``order`` is the transpose; give a wrong one to see how it differs.
    """
    frames += -frames % temporal
    t, h, w = frames // temporal, height // patch // merge, width // patch // merge
    lengths = (t, temporal, 3, h, merge, patch, w, merge, patch)
    rows = math.prod(lengths[axis] for axis in order[:5])
    numbers = math.prod(lengths[axis] for axis in order[5:])
    names = [name.replace("\n", " ") for name in NINE]
    figure, axes = drawing(
        f"From {frames} frames of {width}x{height} to {rows} patches of {numbers} values",
        f"Nine boxes above, {', '.join(names)}, and below in their new order: "
        f"{', '.join(names[axis] for axis in order[:5])} index the {rows} patches, "
        f"{', '.join(names[axis] for axis in order[5:])} the {numbers} values of a patch.",
        size=(7.5, 4.0),
    )
    axes.set(xlim=(-0.55, 8.55), ylim=(-1.4, 3.6))
    axes.set_axis_off()
    for place, axis in enumerate(range(9)):
        _axis_box(axes, place, 2.4, axis, lengths[axis])
    for place, axis in enumerate(order):
        _axis_box(axes, place, -0.2, axis, lengths[axis])
        axes.annotate(
            "",
            (place, 0.32),
            (axis, 1.88),
            arrowprops={
                "arrowstyle": "-|>",
                "color": _axis_colour(axis),
                "linewidth": 1.8,
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )
    above = (
        (0, 1, f"{frames} frames"),
        (2, 2, "3 channels"),
        (3, 5, f"height {height}"),
        (6, 8, f"width {width}"),
    )
    for first, last, text in above:
        _brace(axes, first, last, 3.05, 3.2, text)
    _brace(axes, 0, 4, -0.85, -1.0, f"which patch: {rows}")
    _brace(axes, 5, 8, -0.85, -1.0, f"its values: {numbers}")
    return figure


def _axis_colour(axis: int) -> str:
    return (COLOURS[3], COLOURS[1], COLOURS[0], COLOURS[2])[NINE_SOURCE[axis]]


def _axis_box(axes: Axes, x: float, y: float, axis: int, length: int) -> None:
    """One of the nine axes: its name and length; the border is that of its source axis."""
    left, right, low, high = x - 0.44, x + 0.44, y - 0.5, y + 0.5
    corners = ([left, right, right, left], [low, low, high, high])
    axes.fill(*corners, facecolor=PAPER, edgecolor=_axis_colour(axis), linewidth=2)
    axes.text(x, y + 0.14, NINE[axis], ha="center", va="center", fontsize=7.5, color=INK)
    axes.text(x, y - 0.33, str(length), ha="center", va="center", fontsize=9, weight="bold")


def _brace(axes: Axes, first: int, last: int, y: float, text_y: float, text: str) -> None:
    axes.plot([first - 0.44, last + 0.44], [y, y], color=INK, linewidth=1)
    va = "bottom" if text_y > y else "top"
    axes.text((first + last) / 2, text_y, text, ha="center", va=va, fontsize=9, color=INK)


def patch_layout(
    patches: Float[Array, "N P"],
    number: int,
    patch: int = 14,
    temporal: int = 2,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
) -> Drawing:
    """The values of one patch in memory order, and the squares of pixels they come from.

    The strip is the patch as it lies in memory: channel by channel, in each frame by frame, in each
    row by row of pixels. The first square is the patch in colour, brought back with ``mean`` and
    ``std``. One scale of brightness for all, in normalised units.
    """
    row = patches[number]
    squares = np.reshape(row, (len(mean), temporal, patch, patch))
    many, step = len(mean) * temporal, patch * patch
    colour = np.transpose(squares[:, 0], (1, 2, 0)) * np.asarray(std) + np.asarray(mean)
    least, most = float(row.min()), float(row.max())
    same = all(np.array_equal(squares[:, 0], squares[:, k]) for k in range(1, temporal))
    figure, axes = drawing(
        f"Patch {number}: {len(row)} values are {len(mean)} channels of {temporal} frames of "
        f"{patch}x{patch}",
        f"Patch {number} as a strip of {len(row)} values from {least:.2f} to {most:.2f}, and "
        f"below it the {many} squares of {patch}x{patch} that the strip is made of, "
        f"{'the same' if same else 'not the same'} in all frames.",
        size=(7.5, 3.2),
    )
    wide, gap = float(many + 1), 0.16
    axes.set(xlim=(-0.05, wide + 0.05), ylim=(-0.6, 2.35), aspect="equal")
    axes.set_axis_off()
    scale: dict[str, Any] = {"cmap": SEQUENTIAL, "vmin": least, "vmax": most, "aspect": "equal"}
    axes.imshow(row[None], extent=(0, wide, 1.7, 2.0), interpolation="nearest", **scale)
    axes.imshow(np.clip(colour, 0, 1), extent=(0, 1 - gap, 0, 1 - gap))
    axes.text((1 - gap) / 2, -0.06, "in colour,\nframe 0", ha="center", va="top", fontsize=8)
    for k, square in enumerate(np.reshape(squares, (many, patch, patch))):
        left, begin, end = k + 1, wide * k / many, wide * (k + 1) / many
        axes.imshow(square, extent=(left, left + 1 - gap, 0, 1 - gap), **scale)
        axes.plot([begin, left], [1.7, 1 - gap], color=FAINT, linewidth=0.8)
        axes.plot([end, left + 1 - gap], [1.7, 1 - gap], color=FAINT, linewidth=0.8)
        axes.plot([end, end], [1.66, 2.04], color=INK, linewidth=1)
        axes.text(
            (begin + end) / 2, 2.07, f"{k * step}..{(k + 1) * step - 1}", ha="center", fontsize=7.5
        )
        name = CHANNELS[k // temporal] if len(mean) == 3 else f"channel {k // temporal}"
        text = f"{name},\nframe {k % temporal}"
        axes.text(left + (1 - gap) / 2, -0.06, text, ha="center", va="top", fontsize=8)
    axes.set(xlim=(-0.05, wide + 0.05), ylim=(-0.6, 2.35))
    caption = f"dark blue is the lowest value ({least:.2f}), yellow the highest ({most:.2f})"
    figure.supxlabel(caption, fontsize=8, color=INK)
    return figure


def as_bytes(
    frame: Float[Array, "H W C"],
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
) -> UInt8[Array, "H W C"]:
    """A normalised frame as bytes again, for display."""
    pixels = (frame * np.asarray(std) + np.asarray(mean)) * 255
    return np.astype(np.clip(np.round(pixels), 0, 255), np.uint8)
