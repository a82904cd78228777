"""Image sizes: how smart_resize chooses them, and how many tokens they give."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from ..errors import UserError
from ..image import resize as resize_image
from ..image import smart_resize
from .style import COLOURS, FAINT, INK, PAPER, SEQUENTIAL, Drawing, draw_border, drawing, show_image


def image_row(images: Mapping[str, Any], title: str, alt: str = "") -> Drawing:
    """Images in a row at one scale, each with its name and size above it.

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
        alt or f"{len(arrays)} images in a row: {listed}.",
        columns=len(arrays),
        size=(7.5, height),
        squeeze=False,
        width_ratios=[max(width, sum(widths) / 12) for width in widths],
    )
    for each, (name, array) in zip(axes[0], arrays.items(), strict=True):
        show_image(each, array, f"{name}\n{sizes[name]}")
        draw_border(each, array.shape[1], array.shape[0])
    return figure


def patch_grid(
    image: Image.Image,
    min_pixels: float = 56 * 56,
    max_pixels: float = 12845056,
    patch: int = 14,
    merge: int = 2,
) -> Drawing:
    """An image before and after resizing, with its patches (thin lines) and tokens (thick lines).

    Both are drawn at one scale, in pixels; an image that keeps its size is drawn once. The first
    token is hatched. Thin lines are left out when the patches would be under 4 points wide.
    """
    size = smart_resize(image.height, image.width, patch * merge, min_pixels, max_pixels)
    height, width = size
    resized = resize_image(image, height, width)
    tokens = (height // patch // merge) * (width // patch // merge)
    if size == (image.height, image.width):
        return _unresized(image, patch, merge, tokens)
    beside = height + image.height > width + image.width
    arranged: dict[str, Any] = {"columns": 2} if beside else {"rows": 2}
    wide = image.width + width if beside else max(image.width, width)
    tall = max(image.height, height) if beside else image.height + height
    inches = min(6.4 / wide, 6.0 / tall)  # to a pixel
    figure, axes = drawing(
        f"{image.width}x{image.height} is resized to {width}x{height}: "
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
        axes, (np.asarray(image), resized), ("original", "resized"), strict=True
    ):
        show_image(each, pixels, f"{name}: {pixels.shape[1]}x{pixels.shape[0]} pixels")
        draw_border(each, pixels.shape[1], pixels.shape[0])
    figure.supxlabel(_legend_of_lines(patch, merge), fontsize=9, color=INK)
    axes[0].set(xlim=(-2, max(image.width, width) + 2), ylim=(max(image.height, height) + 2, -2))
    _patches_and_tokens(axes[1], width, height, patch, merge, inches)
    return figure


def _unresized(image: Image.Image, patch: int, merge: int, tokens: int) -> Drawing:
    """:func:`patch_grid` of an image whose size is allowed as it is: one panel."""
    width, height = image.size
    inches = min(6.4 / width, 5.6 / height)
    figure, axes = drawing(
        f"{width}x{height} keeps its size: {tokens * merge**2} patches, {tokens} tokens",
        f"An image of {width}x{height} pixels, which is not resized, under a grid: "
        f"{height // patch} rows of {width // patch} patches of {patch} pixels, and thicker lines "
        f"around the {tokens} tokens of {patch * merge} pixels.",
        size=(7.5, min(7.2, height * inches + 0.95)),
    )
    show_image(axes, image)
    draw_border(axes, width, height)
    axes.set(xlim=(-2, width + 2), ylim=(height + 2, -2))
    _patches_and_tokens(axes, width, height, patch, merge, inches)
    figure.supxlabel(_legend_of_lines(patch, merge), fontsize=9, color=INK)
    return figure


def _legend_of_lines(patch: int, merge: int) -> str:
    return (
        f"thick lines: tokens of {patch * merge} pixels (the first is hatched); "
        f"thin lines: patches of {patch}"
    )


def _patches_and_tokens(
    axes: Axes, width: int, height: int, patch: int, merge: int, inches: float
) -> None:
    """The lines of patches and tokens over an image, the first token hatched."""
    if patch * inches * 72 >= 4:
        _grid(axes, width, height, patch, 0.5)
    _grid(axes, width, height, patch * merge, 1.3)
    first = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * patch * merge
    axes.fill(*first.T, facecolor=COLOURS[6], alpha=0.75, edgecolor=INK, hatch="//")


def _grid(axes: Axes, width: int, height: int, step: int, line: float) -> None:
    """Dark lines with a light rim, visible on any image."""
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
        f"Sides are rounded to the nearest multiple of {factor}, ties to the even one",
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
    """Areas before and after ``resize`` on logarithmic axes, with min_pixels and max_pixels.

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
        (min_pixels, "min_pixels", ends[1], "right"),
        (max_pixels, "max_pixels", ends[0], "left"),
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

    Colour says how many; so do contours, between the two lines, which are areas of ``min_pixels``
    and ``max_pixels``. Hatched sizes are refused: they are over 200 times as long as wide.
    ``marked``: name -> (height, width) of images to show.
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
        "Image tokens, by width and height",
        f"A map of widths and heights from 1 to {longest:,} pixels: from {least:,} tokens at the "
        f"bottom left to {most:,} at the top right, nearly constant outside the pixel limits. "
        f"{'Hatched corners, over 200 times as long as wide, are refused.' * bool(refused.any())}",
        size=(6.6, 5.2),
    )
    shown = axes.pcolormesh(sides, sides, np.log10(counts), cmap=SEQUENTIAL, shading="nearest")
    levels = [n for e in range(1, 6) for n in (10**e, 3 * 10**e) if least < n < most]
    if levels:
        area = np.multiply.outer(sides, sides)
        outside = (area < min_pixels) | (area > max_pixels) | refused
        smooth = np.ma.masked_where(outside, area / factor**2)
        lines = axes.contour(sides, sides, smooth, levels, colors=PAPER, linewidths=0.9)
        for mark in axes.clabel(lines, fmt="{:,.0f}".format, fontsize=7.5, colors=INK):
            mark.set_bbox({"facecolor": PAPER, "edgecolor": "none", "pad": 0.8, "alpha": 0.9})
    axes.contourf(
        sides, sides, refused.astype(float), [0.5, 1.5], colors="none", hatches=["///"]
    ) if refused.any() else None
    for limit, name in ((min_pixels, "min_pixels"), (max_pixels, "max_pixels")):
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
    """A label on a light box, readable on any colour."""
    box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5, "alpha": 0.9}
    how: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8, "bbox": box, "ha": side}
    axes.annotate(text, at, offset, va="center", color=INK, **how)
