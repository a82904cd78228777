"""Figures of the merger: which patches become one token, through what, and with which GELU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from .. import nn
from ..dims import Array, Float, Int
from ..oracle.mutants import gelu_tanh
from .style import COLOURS, INK, PAPER, SEQUENTIAL, Drawing, drawing, show_image

FORMS = {"tanh approximation": gelu_tanh, "QuickGELU": nn.quick_gelu}
_STYLES = {"tanh approximation": (COLOURS[1], "--"), "QuickGELU": (COLOURS[3], ":")}


def gelu_variants(values: Float[Array, "..."] | None = None, reach: float = 6.0) -> Drawing:
    """The exact GELU of the merger, its tanh approximation and QuickGELU; below, their errors.

    ``values``: real inputs of the activation, drawn as a histogram (the share of them
    in each bin) beneath the curves. Look at the lower panel, whose scale is logarithmic: curves
    that cover each other above are up to 5e-4 and 2e-2 apart. (Hendrycks & Gimpel 2016)
    """
    x = np.linspace(-reach, reach, 2401)
    exact = nn.gelu(x)
    apart = {name: np.abs(form(x) - exact) for name, form in FORMS.items()}
    alt = (
        f"GELU and two approximations from {-reach:g} to {reach:g}; largest distance from exact "
        "GELU: "
    )
    alt += ", ".join(
        f"{name} {gap.max():.2g} at x = {x[np.argmax(gap)]:.3g}" for name, gap in apart.items()
    )
    figure, (curves, gaps) = drawing(
        "GELU and its approximations", alt + ".", 2, 1, size=(7.0, 5.0), sharex=True
    )
    curves.plot(x, exact, color=COLOURS[0], linewidth=2.5, label="exact (erf)")
    for name, form in FORMS.items():
        colour, line = _STYLES[name]
        curves.plot(x, form(x), line, color=colour, linewidth=1.6, label=name)
        gaps.plot(x, np.maximum(apart[name], 1e-12), line, color=colour, linewidth=1.6, label=name)
        peak = int(np.argmax(apart[name]))
        gaps.annotate(
            f"{apart[name][peak]:.1e}",
            (x[peak], apart[name][peak]),
            (0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    curves.set_ylabel("activation", fontsize=9)
    curves.legend(fontsize=8, frameon=False, loc="upper left")
    gaps.set(yscale="log", ylim=(1e-8, 0.3), xlim=(-reach, reach))
    gaps.set_ylabel("distance from the exact GELU", fontsize=9)
    gaps.set_xlabel("input", fontsize=9)
    if values is not None:
        _histogram(curves, np.ravel(values), reach)
        figure.alt += f" The histogram is of {np.size(values)} values."
    return figure


def patch_groupings(grid: Sequence[int], merge: int = 2) -> Drawing:
    """Which token each patch becomes part of, in merge order and in raster order.

    ``grid`` = (t, h, w) in patches (the first frame pair is drawn). Every merge * merge
    neighbours in memory become one token. Left, patches in merge order: a token is a square. Right,
    patches in raster order: a token is a strip at another position.
    """
    _, h, w = grid
    four = merge * merge
    rows, columns = np.indices((h, w))
    right = (rows // merge) * (w // merge) + columns // merge
    wrong = (rows * w + columns) // four
    moved = int(np.count_nonzero(right != wrong))
    alt = (
        f"{h} by {w} patches, each with the index of its token, {h * w // four} tokens. In merge "
        f"order a token is a square of {merge} by {merge}; in raster order it is {four} patches "
        f"in a row, and {moved} of {h * w} patches go to another token."
    )
    figure, panels = drawing(
        "Which token a patch goes to", alt, 1, 2, size=(7.5, min(0.9 + 3.5 * h / w, 5.5))
    )
    titles = f"merge order: {merge} x {merge} squares", f"raster order: {four} in a row (wrong)"
    for axes, groups, title in zip(panels, (right, wrong), titles, strict=True):
        _draw_groups(axes, groups, title)
    return figure


def merge_group_to_token(
    patches: Float[Array, "S D"],
    hidden: Float[Array, "..."],
    token: Float[Array, "E"],
    crop: Any = None,
) -> Drawing:
    """The values of one merge group on their way through the merger.

    ``patches``: the patches of a merge group after the norm, [4, D]; ``hidden``: what comes out of
    ``mlp.0``, before the GELU; ``token``: what comes out of ``mlp.2``; ``crop``: its pixels.
    Every value is one stroke, from dark (lowest) to light (highest) in each strip. Look at the
    second strip: it is the four patches of the first, concatenated; nothing is averaged.
    """
    many, width = patches.shape
    alt = (
        f"{many} patches of {width} values are concatenated to {many * width} values; a matrix "
        f"projects them to {len(hidden)}, GELU follows, and a second matrix projects to "
        f"{len(token)}: "
        "one image token."
    )
    ratios = [many * 0.8, 1, 1, 1, 1]
    figure, grid = drawing(
        f"{many} patches become one token",
        alt,
        5,
        2,
        size=(7.5, 5.0),
        height_ratios=ratios,
        width_ratios=[1, 4],
    )
    strips = (
        (patches, f"{many} patches after the norm, {width} values each"),
        (np.reshape(patches, (1, -1)), f"concatenated: {many * width}"),
        (hidden[None], f"mlp.0: {len(hidden)}"),
        (nn.gelu(hidden)[None], f"GELU: {len(hidden)}"),
        (token[None], f"mlp.2: {len(token)}, the image token"),
    )
    for row, (numbers, title) in enumerate(strips):
        grid[row, 0].set_axis_off()
        _strip(grid[row, 1], numbers, title, len(token) / (many * width))
    if crop is not None:
        show_image(grid[0, 0], crop, "the merge group")
        _number_patches(grid[0, 0], np.asarray(crop).shape, round(many**0.5))
    return figure


def token_map(
    values: Float[Array, "M"],
    grid: Sequence[int],
    merge: int = 2,
    image: Any = None,
    title: str = "",
    mark: int | None = None,
    unit: str = "",
) -> Drawing:
    """One value per image token, at the position of the token.

    ``values`` are in raster order (as the vision encoder gives them), ``grid`` = (1, h, w) in
    patches; ``image`` is shown beside, with the same lines. ``mark`` frames one token; ``unit``
    names the values. Light is high, dark is low; lowest and highest are written into their
    cells.
    """
    h, w = grid[1] // merge, grid[2] // merge
    table = np.reshape(values, (h, w))
    low, high = divmod(int(np.argmin(table)), w), divmod(int(np.argmax(table)), w)
    alt = (
        f"{h} rows and {w} columns of image tokens; {unit or 'values'} from {table.min():.2g} "
        f"(row {low[0]}, column {low[1]}) to {table.max():.2g} (row {high[0]}, column {high[1]})."
    )
    panels = 1 if image is None else 2
    size = (7.5, min(6.2 / panels * h / w + 0.7, 7.0))
    figure, axes = drawing(
        title or "One value per image token", alt, 1, panels, size=size, squeeze=False
    )
    heat = axes[0, -1]
    heatmap = heat.imshow(table, cmap=SEQUENTIAL, extent=(0, w, h, 0))
    heat.set_axis_off()
    for i, j in {low, high}:
        shade = INK if table[i, j] > (table.max() + table.min()) / 2 else PAPER
        said = f"{table[i, j]:.2g}"
        heat.text(j + 0.5, i + 0.5, said, ha="center", va="center", fontsize=7, color=shade)
    figure.colorbar(heatmap, ax=heat, shrink=0.8, label=unit).ax.tick_params(labelsize=7)
    if image is not None:
        show_image(axes[0, 0], image)
        pixels = np.asarray(image).shape
        _lines(axes[0, 0], pixels, h, w)
        _frame(axes[0, 0], mark, w, pixels[1] / w, pixels[0] / h)
    _frame(heat, mark, w, 1, 1)
    return figure


def _histogram(axes: Axes, values: Float[Array, "S"], reach: float) -> None:
    shares, edges = np.histogram(values, 60, (-reach, reach))
    beside = axes.twinx()
    beside.stairs(shares / max(len(values), 1), edges, fill=True, color="#cccccc", alpha=0.6)
    beside.set_ylim(0, 4 * max(shares.max() / max(len(values), 1), 1e-9))
    beside.set_ylabel("share of the inputs (grey)", fontsize=8)
    beside.tick_params(labelsize=7)
    beside.spines[["top"]].set_visible(False)
    axes.set_zorder(beside.get_zorder() + 1)
    axes.patch.set_visible(False)


def _draw_groups(axes: Axes, groups: Int[Array, "H W"], title: str) -> None:
    h, w = groups.shape
    axes.set(xlim=(0, w), ylim=(h, 0), aspect="equal")
    axes.set_axis_off()
    axes.set_title(title, fontsize=9, color=INK)
    pale = ("#bfdcee", "#fae3b6", "#bfe5da", "#f0dbe7", "#e6e6e6")
    size = float(np.clip(9 * 12 / max(h, w), 7, 10))
    for (i, j), number in np.ndenumerate(groups):
        box = Rectangle((j, i), 1, 1, facecolor=pale[number % len(pale)], edgecolor=PAPER)
        axes.add_patch(box)
        axes.text(j + 0.5, i + 0.5, str(number), ha="center", va="center", fontsize=size, color=INK)
        for di, dj, line in (
            (0, 1, ((j + 1, j + 1), (i, i + 1))),
            (1, 0, ((j, j + 1), (i + 1,) * 2)),
        ):
            if i + di == h or j + dj == w or groups[i + di, j + dj] != number:
                axes.plot(*line, color=INK, linewidth=1.5, clip_on=False)
    axes.plot([0, 0, w], [h, 0, 0], color=INK, linewidth=1.5, clip_on=False)


def _strip(axes: Axes, numbers: Float[Array, "S D"], title: str, share: float) -> None:
    axes.imshow(numbers, cmap=SEQUENTIAL, aspect="auto", interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=8, color=INK, loc="left", pad=2)
    for edge in np.arange(1, len(numbers)) - 0.5:
        axes.axhline(edge, color=PAPER, linewidth=2)


def _number_patches(axes: Axes, pixels: tuple[int, ...], side: int) -> None:
    _lines(axes, pixels, side, side)
    box: dict[str, Any] = dict(
        boxstyle="round,pad=0.15", facecolor=PAPER, edgecolor="none", alpha=0.8
    )
    for number in range(side * side):
        i, j = divmod(number, side)
        middle = (j + 0.5) * pixels[1] / side, (i + 0.5) * pixels[0] / side
        axes.text(*middle, str(number), ha="center", va="center", fontsize=8, bbox=box)


def _lines(axes: Axes, pixels: tuple[int, ...], rows: int, columns: int) -> None:
    look: dict[str, Any] = dict(color="#777777", linewidth=0.6)
    axes.vlines(np.arange(columns + 1) * pixels[1] / columns, 0, pixels[0], **look)
    axes.hlines(np.arange(rows + 1) * pixels[0] / rows, 0, pixels[1], **look)


def _frame(axes: Axes, mark: int | None, columns: int, wide: float, high: float) -> None:
    if mark is None:
        return
    i, j = divmod(mark, columns)
    look: dict[str, Any] = dict(fill=False, clip_on=False)
    for colour, width in ((PAPER, 4), (INK, 2)):
        box = Rectangle((j * wide, i * high), wide, high, edgecolor=colour, **look)
        box.set_linewidth(width)
        axes.add_patch(box)
