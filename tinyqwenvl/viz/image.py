"""Figures of notebooks 01 to 03: sizes, patches and their order, the patch embedding."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from PIL import Image

from .. import vision
from ..config import CLIP_MEAN, CLIP_STD
from ..dims import Array, Float, Int, UInt8
from ..errors import UserError
from ..image import resize as resize_image
from ..image import smart_resize
from .style import COLOURS, FAINT, INK, PAPER, SEQUENTIAL, Drawing, drawing, show_image

SIGNED = "PuOr"  # from brown (negative) over white (0) to purple, for all eyes
CHANNELS = ("red", "green", "blue")
NINE = (
    "time",
    "frame\nof pair",
    "channel",
    "block\nrow",
    "row in\nblock",
    "y in\npatch",
    "block\ncolumn",
    "column\nin block",
    "x in\npatch",
)
NINE_SOURCE = (0, 0, 1, 2, 2, 2, 3, 3, 3)  # of F, C, H, W, the axis that each of the nine is cut of
NINE_ORDER = (0, 3, 6, 4, 7, 2, 1, 5, 8)  # as in image.patchify

# ------------------------------------------------------------------ 01: sizes


def image_row(images: Mapping[str, Any], title: str, alt: str = "") -> Drawing:
    """Images next to each other at one scale, each with its name and size above it.

    ``images``: name -> a PIL image or an array [height, width, 3] of bytes. Without ``alt`` the
    text says names and sizes only; say what there is to see.
    """
    arrays = {name: np.asarray(image) for name, image in images.items()}
    sizes = {name: f"{a.shape[1]}x{a.shape[0]}" for name, a in arrays.items()}
    listed = ", ".join(f"{name} ({sizes[name]})" for name in arrays)
    widths = [a.shape[1] for a in arrays.values()]
    tall = max(a.shape[0] for a in arrays.values())
    height = min(5.0, max(1.6, 6.9 * tall / sum(widths))) + 0.7
    figure, axes = drawing(
        title,
        alt or f"{len(arrays)} images beside each other: {listed}.",
        columns=len(arrays),
        size=(7.5, height),
        squeeze=False,
        width_ratios=[max(width, sum(widths) / 12) for width in widths],
    )
    for each, (name, array) in zip(axes[0], arrays.items(), strict=True):
        show_image(each, array, f"{name}\n{sizes[name]}")
        _frame(each, array.shape[1], array.shape[0])
    return figure


def patch_grid(
    image: Image.Image,
    min_pixels: float = 56 * 56,
    max_pixels: float = 12845056,
    patch: int = 14,
    merge: int = 2,
) -> Drawing:
    """The image as it came and as it is read, with its patches (thin) and tokens (thick).

    Both are drawn at one scale, in pixels. The first token is filled. Thin lines are left out when
    the patches would be under 4 points wide.
    """
    size = smart_resize(image.height, image.width, patch * merge, min_pixels, max_pixels)
    height, width = size
    resized = resize_image(image, height, width)
    tokens = (height // patch // merge) * (width // patch // merge)
    beside = height + image.height > width + image.width
    arranged: dict[str, Any] = {"columns": 2} if beside else {"rows": 2}
    wide = image.width + width if beside else max(image.width, width)
    tall = max(image.height, height) if beside else image.height + height
    inches = min(6.4 / wide, 6.0 / tall)  # to a pixel
    figure, axes = drawing(
        f"{image.width}x{image.height} is read at {width}x{height}: "
        f"{tokens * merge**2} patches, {tokens} tokens",
        f"An image of {image.width}x{image.height} pixels, and the same resized to "
        f"{width}x{height} under a grid: {height // patch} rows of {width // patch} patches of "
        f"{patch} pixels, and thicker lines around the {tokens} tokens of {patch * merge} pixels.",
        size=(7.5, min(7.5, tall * inches + (1.2 if beside else 2.1))),
        sharex=True,
        sharey=True,
        **arranged,
    )
    for each, pixels, name in zip(
        axes, (np.asarray(image), resized), ("as it came", "as it is read"), strict=True
    ):
        show_image(each, pixels, f"{name}: {pixels.shape[1]}x{pixels.shape[0]} pixels")
        _frame(each, pixels.shape[1], pixels.shape[0])
    figure.supxlabel(
        f"thick lines: tokens of {patch * merge} pixels (the first is hatched); "
        f"thin lines: patches of {patch}",
        fontsize=9,
        color=INK,
    )
    axes[0].set(xlim=(-2, max(image.width, width) + 2), ylim=(max(image.height, height) + 2, -2))
    if patch * inches * 72 >= 4:
        _grid(axes[1], width, height, patch, 0.5)
    _grid(axes[1], width, height, patch * merge, 1.3)
    first = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * patch * merge
    axes[1].fill(*first.T, facecolor=COLOURS[6], alpha=0.75, edgecolor=INK, hatch="//")
    return figure


def _frame(axes: Axes, width: int, height: int) -> None:
    """A thin border, so that white images end somewhere."""
    axes.plot([0, width, width, 0, 0], [0, 0, height, height, 0], color=FAINT, linewidth=1)


def _grid(axes: Axes, width: int, height: int, step: int, line: float) -> None:
    """Dark lines with a light rim, so that they are seen on any image."""
    for colour, extra in ((PAPER, 1.0), (INK, 0.0)):
        style: dict[str, Any] = {"color": colour, "linewidth": line + extra * line / 1.3}
        axes.vlines(np.arange(0, width + 1, step), 0, height, **style)
        axes.hlines(np.arange(0, height + 1, step), 0, width, **style)


def rounding_steps(longest: int = 150, factor: int = 28) -> Drawing:
    """A side before and after rounding to a multiple of ``factor``; sides in pixels.

    Dots are the ties, sides halfway between two multiples: filled where Python's ``round`` puts
    them (the even multiple), hollow where rounding half away from zero would.
    """
    sides = np.arange(longest + 1)
    after = np.array([round(side / factor) * factor for side in sides.tolist()])
    ties = np.arange(factor / 2, longest + 1, factor) if factor % 2 == 0 else np.zeros(0)
    even = np.array([round(tie / factor) * factor for tie in ties.tolist()])
    away = np.array([math.floor(tie / factor + 0.5) * factor for tie in ties.tolist()])
    differ = [int(tie) for tie, a, b in zip(ties, even, away, strict=True) if a != b]
    figure, axes = drawing(
        f"A side is rounded to the nearest multiple of {factor}, ties to the even one",
        f"A staircase: sides of 0 to {longest} pixels against their nearest multiple of {factor}. "
        f"Of {len(ties)} ties, {', '.join(map(str, differ)) or 'none'} would come out a step "
        f"higher if ties were rounded up.",
        size=(7.0, 3.8),
    )
    for step in np.unique(after).tolist():
        run = sides[after == step]
        axes.plot(run[[0, -1]], [step, step], color=COLOURS[0], linewidth=2.5)
    axes.plot([0, longest], [0, longest], color=FAINT, linewidth=1, linestyle="--", zorder=0)
    axes.scatter(ties, even, s=40, color=COLOURS[0], zorder=3, label="tie, to the even multiple")
    odd = even != away
    axes.scatter(
        ties[odd],
        away[odd],
        s=40,
        facecolor=PAPER,
        edgecolor=COLOURS[5],
        linewidth=1.5,
        zorder=3,
        label="the same tie, rounded up as in C",
    )
    for tie, high in zip(ties[odd].tolist(), away[odd].tolist(), strict=True):
        axes.annotate(
            f"{tie:g}", (tie, high), (0, 6), textcoords="offset points", ha="center", fontsize=8
        )
    axes.set_xlabel("side before, pixels", fontsize=9)
    axes.set_ylabel("side after, pixels", fontsize=9)
    axes.set_yticks(np.unique(np.append(after, away)))
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    return figure


def resized_areas(
    sizes: Mapping[str, tuple[int, int]],
    min_pixels: float = 56 * 56,
    max_pixels: float = 12845056,
    factor: int = 28,
    resize: Callable[..., tuple[int, int]] = smart_resize,
) -> Drawing:
    """Areas before and after ``resize`` on logarithmic axes, with the least and most pixels.

    ``sizes``: name -> (height, width) in pixels. On the dashed line nothing changes; tokens are
    counted on the right. ``resize`` may be another implementation's (``compat``); where that leaves
    nothing of an image, its point stands at an area of 1.
    """
    after = {name: resize(h, w, factor, min_pixels, max_pixels) for name, (h, w) in sizes.items()}
    before = np.array([h * w for h, w in sizes.values()], float)
    area = np.array([max(h * w, 1) for h, w in after.values()], float)
    listed = [
        f"{name} {sizes[name][1]}x{sizes[name][0]} becomes {w}x{h}"
        for name, (h, w) in after.items()
    ]
    figure, axes = drawing(
        f"Areas are kept between {min_pixels:,.0f} and {max_pixels:,.0f} pixels",
        f"Areas of {len(sizes)} images before and after resizing: {'; '.join(listed)}. "
        f"{np.count_nonzero(before < area)} grow and {np.count_nonzero(before > area)} shrink.",
        size=(7.0, 4.2),
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    ends = [min(before.min(), area.min(), min_pixels) / 2, max(before.max(), max_pixels) * 2]
    axes.plot(ends, ends, color=FAINT, linestyle="--", linewidth=1)
    for limit, name, x, side in (
        (min_pixels, "least pixels", ends[1], "right"),
        (max_pixels, "most pixels", ends[0], "left"),
    ):
        axes.axhline(limit, color=COLOURS[5], linewidth=1.2)
        away = (-3, 3) if side == "right" else (3, 3)
        how: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8, "ha": side}
        axes.annotate(name, (x, limit), away, **how)
    axes.scatter(before, area, s=36, color=COLOURS[0], zorder=3)
    names = list(sizes)
    for place, number in enumerate(np.argsort(before).tolist()):  # labels above and below in turn
        name, left = names[number], before[number] > np.sqrt(ends[0] * ends[1])
        axes.annotate(
            f"{name}: {sizes[name][1]}x{sizes[name][0]}",
            (before[number], area[number]),
            (-14 if left else 14, 12 if place % 2 else -20),
            textcoords="offset points",
            ha="right" if left else "left",
            fontsize=8,
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1},
            arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.7, "shrinkB": 3},
        )
    axes.set(xlim=ends, ylim=(min(area.min(), min_pixels) / 3, max(area.max(), max_pixels) * 3))
    axes.set_xlabel("area before, pixels", fontsize=9)
    axes.set_ylabel("area after, pixels", fontsize=9)
    tokens = axes.secondary_yaxis(
        "right", functions=(lambda a: a / factor**2, lambda n: n * factor**2)
    )
    tokens.set_ylabel("tokens", fontsize=9)
    tokens.tick_params(labelsize=8)
    tokens.yaxis.set_major_formatter("{x:,.0f}")
    return figure


def tokens_by_size(
    min_pixels: float = 56 * 56,
    max_pixels: float = 12845056,
    factor: int = 28,
    longest: int = 20000,
    marked: Mapping[str, tuple[int, int]] | None = None,
    steps: int = 90,
) -> Drawing:
    """Tokens of an image of any width and height, up to ``longest`` pixels a side.

    Colour says how many; hatched sizes are refused, as they are over 200 times as long as wide. The
    two lines are areas of ``min_pixels`` and ``max_pixels``. ``marked``: name -> (height, width) of
    images to show.
    """
    sides = np.unique(np.round(np.geomspace(1, longest, steps)).astype(int))
    counts = np.full((len(sides), len(sides)), np.nan)
    for row, height in enumerate(sides.tolist()):
        for column, width in enumerate(sides.tolist()):
            try:
                h, w = smart_resize(height, width, factor, min_pixels, max_pixels)
                counts[row, column] = h * w / factor**2
            except UserError:
                pass
    least, most = int(np.nanmin(counts)), int(np.nanmax(counts))
    refused = np.isnan(counts)
    figure, axes = drawing(
        "How many tokens an image of any size becomes",
        f"A map of widths and heights from 1 to {longest:,} pixels: from {least:,} tokens at the "
        f"bottom left to {most:,} at the top right, nearly constant beyond the limits on pixels. "
        f"{'Hatched corners, over 200 times as long as wide, are refused.' * bool(refused.any())}",
        size=(6.6, 5.2),
    )
    shown = axes.pcolormesh(sides, sides, np.log10(counts), cmap=SEQUENTIAL, shading="nearest")
    axes.contourf(
        sides, sides, refused.astype(float), [0.5, 1.5], colors="none", hatches=["///"]
    ) if refused.any() else None
    for limit, name in ((min_pixels, "least pixels"), (max_pixels, "most pixels")):
        for colour, line in ((PAPER, 3.0), (INK, 1.2)):
            axes.plot([1, limit], [limit, 1], color=colour, linewidth=line)
        middle, away = math.sqrt(limit), min(6.0, max(longest / math.sqrt(limit) / 2, 1.0))
        _boxed(axes, name, (middle * away, middle / away), (0, 0), "center")
    for name, (height, width) in (marked or {}).items():
        axes.scatter(width, height, s=40, color=PAPER, edgecolor=INK, zorder=3)
        left = width > math.sqrt(longest)
        _boxed(
            axes, name, (width, height), (-6, 5) if left else (6, 5), "right" if left else "left"
        )
    axes.set(xscale="log", yscale="log", aspect="equal", xlim=(1, longest), ylim=(1, longest))
    axes.set_xlabel("width, pixels", fontsize=9)
    axes.set_ylabel("height, pixels", fontsize=9)
    bar = figure.colorbar(shown, ax=axes, shrink=0.85)
    bar.set_label("tokens", fontsize=9)
    ticks = list(range(math.ceil(math.log10(least)), math.floor(math.log10(most)) + 1))
    bar.set_ticks(ticks, labels=[f"{10.0**tick:,.0f}" for tick in ticks], fontsize=8)
    return figure


def _boxed(
    axes: Axes, text: str, at: tuple[float, float], offset: tuple[int, int], side: str
) -> None:
    """A label on a light box, so that it reads on any colour."""
    box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5, "alpha": 0.9}
    how: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8, "bbox": box, "ha": side}
    axes.annotate(text, at, offset, va="center", color=INK, **how)


# ------------------------------------------------------------------ 02: patches


def merge_groups(
    grid_thw: Int[Array, "I 3"], merge: int = 2, images: Sequence[Any] | None = None
) -> Drawing:
    """Patches where they stand in their frame, numbered in the order in which they are computed.

    One panel for each temporal grid (a pair of frames) of each image. Neighbours in the order
    are joined by a line; the ``merge`` x ``merge`` patches of a token share a colour and a thick
    border. Where patches are too small for their numbers, tokens are numbered instead, and where
    those are too small too, the first and the last one. ``images`` (one for each panel) are
    drawn pale underneath.
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
        f"{len(places)} patches in merge order: {merge}x{merge} neighbours make a token",
        f"{len(panels)} grid{'s' * (len(panels) > 1)} of {shapes} of patches. "
        f"A path runs through the {merge**2} patches of one {merge}x{merge} block before it goes "
        f"on to the next block on the right, then to the next row of blocks; {numbers} are "
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
    """What there is room to number, at 7 points of text."""
    for counted, what, room in (
        (patches, "patches", points),
        (patches // merge**2, "tokens", points * merge),
    ):
        if room >= max(4.6 * len(str(counted - 1)) + 2, 10):
            return what
    return "first and last tokens"


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
    corners = places[:: merge**2]  # the first patch of a block is its upper left one
    for k, (y, x) in enumerate(corners.tolist()):
        token = start // merge**2 + k
        if numbers == "tokens":
            _label(axes, x + merge / 2, y + merge / 2, token)
        elif numbers != "patches" and k == 0:
            _label(axes, x, y + merge / 2, token, "left")
        elif numbers != "patches" and k == len(corners) - 1:
            _label(axes, x + merge, y + merge / 2, token, "right")
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
    """Where each of the nine axes of patchify goes, for ``frames`` of ``height`` x ``width``.

    Top: the frames' four axes and the nine that they are cut into, with their lengths; bottom: the
    nine in the order of the patches, the first five making rows, the last four the numbers of a
    row. ``order`` is the transpose; give a wrong one to see how it differs.
    """
    frames += -frames % temporal
    t, h, w = frames // temporal, height // patch // merge, width // patch // merge
    lengths = (t, temporal, 3, h, merge, patch, w, merge, patch)
    rows = math.prod(lengths[axis] for axis in order[:5])
    numbers = math.prod(lengths[axis] for axis in order[5:])
    names = [name.replace("\n", " ") for name in NINE]
    figure, axes = drawing(
        f"From {frames} frames of {width}x{height} to {rows} rows of {numbers} numbers",
        f"Nine boxes above, {', '.join(names)}, and below in their new order: "
        f"{', '.join(names[axis] for axis in order[:5])} make the {rows} rows, "
        f"{', '.join(names[axis] for axis in order[5:])} the {numbers} numbers in a row.",
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
        (2, 2, "3 colours"),
        (3, 5, f"height {height}"),
        (6, 8, f"width {width}"),
    )
    for first, last, text in above:
        _brace(axes, first, last, 3.05, 3.2, text)
    _brace(axes, 0, 4, -0.85, -1.0, f"which patch: {rows} rows")
    _brace(axes, 5, 8, -0.85, -1.0, f"what is in it: {numbers} numbers")
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


def patch_apart(
    patches: Float[Array, "N P"],
    number: int,
    patch: int = 14,
    temporal: int = 2,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
) -> Drawing:
    """One row of the patches taken apart: its numbers in a line, and the squares they are cut of.

    The line is the row as it lies in memory: channel by channel, in each frame by frame, in each
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
        f"Patch {number}: {len(row)} numbers are {len(mean)} channels of {temporal} frames of "
        f"{patch}x{patch}",
        f"Patch {number} as a strip of {len(row)} numbers from {least:.2f} to {most:.2f}, and "
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
    scale_said = f"dark blue is the lowest number ({least:.2f}), yellow the highest ({most:.2f})"
    figure.supxlabel(scale_said, fontsize=8, color=INK)
    return figure


def as_bytes(
    frame: Float[Array, "H W C"],
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
) -> UInt8[Array, "H W C"]:
    """A normalised frame as bytes again, to be looked at."""
    pixels = (frame * np.asarray(std) + np.asarray(mean)) * 255
    return np.astype(np.clip(np.round(pixels), 0, 255), np.uint8)


# ------------------------------------------------------------------ 03: the patch embedding


def kernel_images(
    kernels: Float[Array, "D P"],
    which: Sequence[int],
    title: str = "Kernels of the patch embedding",
    patch: int = 14,
    temporal: int = 2,
) -> Drawing:
    """Kernels as small colour images: frame 0 above, frame 1 below, the number over them.

    A kernel is as long as a patch, and its numbers have the same order. Grey is 0; each is
    stretched to its own largest number. Look for edges, spots and colours; two frames that are
    equal see a still image only, two that differ see change.
    """
    many = len(which)
    columns = min(many, 10)
    rows = -(-many // columns)
    chosen = np.reshape(kernels[list(which)], (many, 3, temporal, patch, patch))
    change = np.abs(chosen - chosen[:, :, :1]).max() / np.abs(chosen).max()
    figure, axes = drawing(
        title,
        f"{title}: {many} images of {patch}x{patch} pixels, {temporal} frames each, numbers "
        f"{', '.join(map(str, which))}. Frames of one differ by at most {change:.2f} of the "
        f"largest number.",
        size=(7.5, 0.6 + rows * (temporal * 7.3 / max(columns, 6) + 0.22)),
    )
    cell = temporal + 0.35
    for place, (number, kernel) in enumerate(zip(which, chosen, strict=True)):
        left, top = place % columns, place // columns * cell
        tinted = 0.5 + 0.5 * kernel / max(np.abs(kernel).max(), 1e-12)
        for k in range(temporal):
            _tile(axes, np.transpose(tinted[:, k], (1, 2, 0)), left, top + k, 0.92)
        axes.text(left + 0.46, top - 0.04, str(number), ha="center", va="bottom", fontsize=7.5)
    axes.set(xlim=(-0.1, max(columns, 6)), ylim=(rows * cell - 0.2, -0.4), aspect="equal")
    axes.set_axis_off()
    frames = " above ".join(f"frame {k}" for k in range(temporal))
    figure.supxlabel(f"{frames}; grey is 0", fontsize=8, color=INK)
    return figure


def _tile(axes: Axes, pixels: np.ndarray, left: float, top: float, side: float, **how: Any) -> Any:
    """A small square image at (left, top) of axes that count downwards."""
    extent = (left, left + side, top + side, top)
    return axes.imshow(pixels, extent=extent, interpolation="nearest", **how)


def matrix_product(
    rows: Float[Array, "N P"], kernels: Float[Array, "D P"], most: int = 160
) -> Drawing:
    """Patches times kernels, drawn as arrays: every number of the result is one row by one row.

    The kernels stand under the patches, number under number; at the right is ``rows @ kernels.T``.
    White is 0, each array has its own scale. Only the first ``most`` patches are drawn.
    """
    shown = rows[:most]
    result = shown @ np.transpose(kernels)
    n, p = shown.shape
    d = len(kernels)
    figure, axes = drawing(
        f"[{len(rows)}, {p}] patches by [{d}, {p}] kernels give [{len(rows)}, {d}]",
        f"Three arrays as heat maps: {n} patches of {p} numbers at the top, {d} kernels of {p} "
        f"numbers below, their products of {n} by {d} at the top right.",
        size=(7.5, 3.1),
    )
    x, y = p + 90, n + 110
    for array, left, top, name in (
        (shown, 0, 0, f"patches: {n} of {len(rows)} rows, {p} numbers each"),
        (kernels, 0, y, f"kernels: {d} rows, {p} numbers each"),
        (result, x, 0, f"result: {n} x {d}"),
    ):
        size = float(np.abs(array).max()) or 1.0
        extent = (left, left + array.shape[1], top + len(array), top)
        axes.imshow(array, cmap=SIGNED, vmin=-size, vmax=size, extent=extent, aspect="equal")
        axes.text(left, top - 10, name, ha="left", va="bottom", fontsize=8, color=INK)
    row, kernel = n // 2, d // 2
    for top, height in ((row, 1), (y + kernel, 1)):
        axes.fill([0, p, p, 0], [top, top, top + height, top + height], fill=False, edgecolor=INK)
    axes.plot([p, x + kernel], [row, row], color=INK, linewidth=1, linestyle=":")
    axes.plot(
        [p, x + kernel, x + kernel],
        [y + kernel, y + kernel, row],
        color=INK,
        linewidth=1,
        linestyle=":",
    )
    axes.plot(x + kernel, row, "o", color=PAPER, markeredgecolor=INK, markersize=5)
    axes.text(x + 6, y + kernel + 12, "one row by one row:\none number", va="top", fontsize=8)
    axes.set(xlim=(-10, x + max(d, 260)), ylim=(y + d + 10, -70))
    axes.set_axis_off()
    return figure


def responses(
    image: Any,
    embedded: Float[Array, "N D"],
    grid: tuple[int, int, int],
    which: Sequence[int],
    merge: int = 2,
) -> Drawing:
    """What some kernels answer to each patch of an image, laid where the patches stand.

    ``embedded`` are the rows of ``vision.embed_patches`` for one image with its ``grid``
    (t, h, w); of several temporal grids the first is shown. One scale for all: white is 0.
    """
    _, h, w = grid
    places = vision.patch_positions(np.array([(1, h, w)]), merge)
    values = embedded[: h * w, list(which)]
    size = float(np.abs(values).max()) or 1.0
    columns = 3
    rows = -(-(len(which) + 1) // columns)
    strongest = [int(k) for k in np.argmax(np.abs(values), axis=0)]
    said = "; ".join(
        f"kernel {kernel} most at row {places[k, 0]}, column {places[k, 1]}"
        for kernel, k in zip(which, strongest, strict=True)
    )
    figure, axes = drawing(
        f"{len(which)} of {embedded.shape[1]} numbers of every patch, where the patches stand",
        f"An image and {len(which)} maps of {h} by {w} patches. {said}.",
        rows,
        columns,
        (7.5, min(7.5, 0.7 + rows * (2.2 * h / w + 0.3))),
        squeeze=False,
    )
    flat = np.ravel(axes)
    show_image(flat[0], image, "the image")
    _frame(flat[0], np.shape(image)[1], np.shape(image)[0])
    for each, kernel, column in zip(flat[1:], which, values.T, strict=False):
        laid = np.zeros((h, w), values.dtype)
        laid[places[:, 0], places[:, 1]] = column
        shown = each.imshow(laid, cmap=SIGNED, vmin=-size, vmax=size)
        each.set_title(f"kernel {kernel}", fontsize=9, color=INK)
    for each in flat:
        each.set_axis_off()
    bar = figure.colorbar(shown, ax=flat.tolist(), shrink=0.7)
    bar.set_label("response", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure
