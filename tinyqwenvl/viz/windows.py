"""Figures of windows: in which order tokens stand, and which patches look at which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, NullLocator

from .. import nn, vision
from ..config import VisionConfig
from ..dims import Array, Float, Int, UInt8
from .style import COLOURS, FAINT, INK, PAPER, SEQUENTIAL, Drawing, drawing, show_image

GAP = 0.6  # between frames that stand below each other, in tokens
MOST_ROWS = 24  # windows that are listed one by one


def _tint(number: int, much: float = 0.45) -> Any:
    """The colour of a window: one of seven, made light enough to write on."""
    colour = np.array(to_rgb(COLOURS[number % 7]))
    return 1 - much * (1 - colour)


def _places(grid_thw: Int[Array, "I 3"], config: VisionConfig) -> Float[Array, "M 2"]:
    """(x, y) of the corner of every merged token, in raster order; frames below each other."""
    merge, top, places = config.spatial_merge_size, 0.0, []
    for t, h, w in (grid_thw // (1, merge, merge)).tolist():
        for _ in range(t):
            y, x = np.reshape(np.indices((h, w)), (2, -1))
            places.append(np.stack([x, y + top], axis=1))
            top += h + GAP
    return np.concatenate(places)


def _number_size(cell: float, largest: int) -> float:
    """The size of text, in points, at which numbers fit into cells of so many inches; or 0."""
    fits = cell * 72 / (0.66 * len(str(largest)) + 0.3)
    return min(fits, 9.0) if fits >= 7 else 0.0


def _cells(axes: Any, places: Any, numbers: Any, windows: Any, size: float) -> None:
    """Numbered cells in the colours of their windows."""
    for (x, y), number, window in zip(places, numbers, windows, strict=True):
        axes.add_patch(Rectangle((x, y), 1, 1, facecolor=_tint(window), edgecolor=PAPER, lw=0.8))
        if size:
            axes.text(x + 0.5, y + 0.53, f"{number}", fontsize=size, color=INK, ha="center",
                      va="center")  # fmt: skip
    axes.set_axis_off()


def _outlines(axes: Any, places: Any, windows: Any, **look: Any) -> None:
    """A frame around each window."""
    for window in np.unique(windows):
        corner = np.min(places[windows == window], axis=0)
        width, height = np.max(places[windows == window], axis=0) + 1 - corner
        axes.add_patch(Rectangle(corner, width, height, fill=False, **look))


def window_order(grid_thw: Int[Array, "I 3"], vision_config: VisionConfig) -> Drawing:
    """The order that ``vision.window_index`` gives to merged tokens: before, after, and undone.

    Above, the tokens where they stand in the image (frames and images below each other), thick
    lines around the windows: on the left numbered in raster order, on the right with the place
    that each has in window order (``np.argsort(index)``). Below, a row a window: ``index`` itself.
    Look at the right and bottom edges: windows are cut there, so rows differ in length.
    """
    index, boundaries = vision.window_index(grid_thw, vision_config)
    lengths = np.diff(boundaries) // vision_config.merged_patches
    inverse, windows = np.argsort(index), np.repeat(np.arange(len(lengths)), lengths)
    places, of_token = _places(grid_thw, vision_config), windows[inverse]
    columns, rows = np.max(places, axis=0) + 1
    listed = min(len(lengths), MOST_ROWS)
    cell = min(3.4 / columns, 4.5 / rows, 0.4)
    size, heights = _number_size(cell, len(index)), (rows * cell + 0.3, 0.21 * listed + 0.3)
    cut = int(np.sum(lengths < np.max(lengths)))
    alt = (
        f"{len(index)} merged tokens, {_ranged(lengths)} a window; {cut} of {len(lengths)} windows"
        f" have fewer than the largest. {int(np.sum(index != np.arange(len(index))))} stand at"
        f" another place in window order, which begins {', '.join(map(str, index[:6]))}; its"
        f" inverse begins {', '.join(map(str, inverse[:6]))}."
    )
    figure, panels = drawing("Raster order and window order", alt, 2, 2,
                             (7.5, sum(heights) + 0.4), height_ratios=heights)  # fmt: skip
    titles = ("raster order: the number of each token", "argsort(index): its place in window order")
    for axes, numbers, title in zip(
        panels[0], (np.arange(len(index)), inverse), titles, strict=True
    ):
        _cells(axes, places, numbers, of_token, size)
        _outlines(axes, places, of_token, edgecolor=INK, lw=1.6)
        axes.set(xlim=(-0.1, columns + 0.1), ylim=(rows + 0.1, -0.1), aspect="equal")
        axes.set_title(title, fontsize=9, color=INK)
        if np.sum(grid_thw[:, 0]) > 1:
            _name_frames(axes, grid_thw, places)
    grid = panels[1, 0].get_gridspec()
    for axes in panels[1]:
        axes.remove()
    _list_windows(figure.add_subplot(grid[1, :]), index, windows, lengths, listed)
    return figure


def _name_frames(axes: Any, grid_thw: Int[Array, "I 3"], places: Float[Array, "M 2"]) -> None:
    """The number of the image and of its frame, left of each frame."""
    heights = np.unique(places[:, 1])
    tops = heights[np.diff(heights, prepend=-9) > 1]
    names = [(i, frame) for i, t in enumerate(grid_thw[:, 0].tolist()) for frame in range(t)]
    for (image, frame), top in zip(names, tops, strict=True):
        axes.text(-0.3, top + 0.5, f"image {image}\nframe {frame}", fontsize=7.5, color=INK,
                  ha="right", va="center")  # fmt: skip
    axes.set_xlim(-2.2 * (np.max(places[:, 0]) + 1) / 6, None)


def _ranged(lengths: Int[Array, "G"]) -> str:
    """As in 4 to 16, or 16 alone."""
    least, most = np.min(lengths), np.max(lengths)
    return f"{most}" if least == most else f"{least} to {most}"


def _list_windows(axes: Any, index: Any, windows: Any, lengths: Any, listed: int) -> None:
    """``index``, a row a window."""
    shown = windows < listed
    column = np.arange(len(index)) - (np.cumsum(lengths) - lengths)[windows]
    places = np.stack([column, windows], axis=1)[shown]
    size = _number_size(6.0 / max(np.max(lengths), 8), len(index))
    _cells(axes, places, index[shown], windows[shown], min(size, 8.5))
    for window in range(listed):
        axes.text(-0.2, window + 0.53, f"window {window}", fontsize=7.5, color=INK, ha="right",
                  va="center")  # fmt: skip
    widest = max(int(np.max(lengths)), 8)
    axes.set(xlim=(-2.5 * widest / 16, widest), ylim=(listed, 0))
    which = "" if listed == len(lengths) else f" (the first {listed} of {len(lengths)} windows)"
    axes.set_title(f"index: which token comes next, a row a window{which}", fontsize=9, color=INK)


def tiles_in_order(
    image: UInt8[Array, "H W 3"], orders: Mapping[str, Int[Array, "M"]], tile: int = 28
) -> Drawing:
    """An image whose tiles (one a merged token) stand in other orders, one panel each.

    ``orders`` maps a name to the numbers of the tiles in the order in which they are put down, row
    by row: what the language model is told about the places of things if that order is wrong.
    """
    rows, columns = image.shape[0] // tile, image.shape[1] // tile
    cut = np.reshape(image[: rows * tile, : columns * tile], (rows, tile, columns, tile, 3))
    tiles = np.reshape(np.swapaxes(cut, 1, 2), (rows * columns, tile, tile, 3))
    moved = {name: int(np.sum(order != np.arange(len(order)))) for name, order in orders.items()}
    alt = "; ".join(
        f"{name}: {'every tile in its place' if not n else f'{n} of {len(tiles)} tiles elsewhere'}"
        for name, n in moved.items()
    )
    width = 7.3 / len(orders)
    size = (7.5, min(max(0.7 + width * image.shape[0] / image.shape[1], 1.5), 7))
    figure, panels = drawing("The image, tile by tile", f"{alt}.", 1, len(orders), size)
    for axes, (name, order) in zip(np.ravel(panels), orders.items(), strict=True):
        laid = np.reshape(tiles[order], (rows, columns, tile, tile, 3))
        show_image(axes, np.reshape(np.swapaxes(laid, 1, 2), (rows * tile, columns * tile, 3)))
        whole = (columns * tile, rows * tile)
        axes.add_patch(Rectangle((0, 0), *whole, fill=False, edgecolor=FAINT, clip_on=False))
        axes.set_title(f"{name}\n{moved[name]} of {len(tiles)} elsewhere", fontsize=8.5, color=INK)
    return figure


def block_mask(key_ranges: Any, keys: int, title: str = "Who may look at whom") -> Drawing:
    """Who may look at whom: rows are patches that look, columns the ``keys`` they look at.

    ``key_ranges`` [S, 2] is drawn as ``nn.visible_keys`` reads it; a dictionary of them draws
    one panel each, side by side. Blue squares on the diagonal are windows (or frames, or
    images); their share of the whole is the share of work.
    """
    named = key_ranges if isinstance(key_ranges, Mapping) else {"": key_ranges}
    masks = {name: nn.visible_keys(each, keys) for name, each in named.items()}
    counts = {name: f"{np.sum(m):,} of {m.size:,} pairs ({100 * np.mean(m):.0f} %)"
              for name, m in masks.items()}  # fmt: skip
    blocks = {name: len(np.unique(each, axis=0)) for name, each in named.items()}
    alt = ". ".join(
        f"{name or 'Mask'}: {counts[name]} may look, "
        f"in {blocks[name]} different {'key_ranges' if blocks[name] > 1 else 'span'}"
        for name in named
    )
    wide = 7.5 if len(named) > 1 else 4.2
    size = (wide, 1.15 + (wide - 0.9) / len(named) * len(next(iter(masks.values()))) / keys)
    size = (size[0], min(size[1], 6.5))
    figure, panels = drawing(title, f"{alt}.", 1, len(named), size, squeeze=False)
    for axes, (name, mask) in zip(panels[0], masks.items(), strict=True):
        shown = np.where(mask[..., None], to_rgb(COLOURS[0]), to_rgb("#eeeeee"))
        extent = (-0.5, mask.shape[1] - 0.5, mask.shape[0] - 0.5, -0.5)
        axes.imshow(shown, interpolation="nearest", extent=extent)
        if len(mask) <= 24:
            axes.hlines(np.arange(len(mask) + 1) - 0.5, *extent[:2], color=PAPER, lw=0.6)
            axes.vlines(np.arange(keys + 1) - 0.5, *extent[2:], color=PAPER, lw=0.6)
        axes.set_title(f"{name}\n{counts[name]}".strip(), fontsize=8.5, color=INK)
        axes.set_xlabel("looked at", fontsize=8, color=INK)
        axes.locator_params(integer=True, nbins=4 if len(mask) > 24 else 9)
    panels[0, 0].set_ylabel("who looks", fontsize=8, color=INK)
    return figure


def pairs_by_size(sides: Int[Array, "S"], vision_config: VisionConfig) -> Drawing:
    """Pairs of patches that one head compares in one block, in square images of ``sides`` pixels.

    Both axes are logarithmic. The full line grows with the fourth power of the side, the windowed
    one with its square (the number of patches); the gap is what windows save.
    """
    full, windowed = np.array([_pairs(int(side), vision_config) for side in sides]).T
    alt = (
        f"At {sides[0]} pixels a side {full[0]:,} pairs in a full block and {windowed[0]:,} in a"
        f" windowed one; at {sides[-1]} pixels {full[-1]:,} and {windowed[-1]:,}, that is"
        f" {full[-1] / windowed[-1]:.0f} times fewer."
    )
    figure, axes = drawing("What windows save", alt, size=(6.5, 3.6))
    axes.loglog(sides, full, "o-", color=COLOURS[5], ms=4)
    axes.loglog(sides, windowed, "s--", color=COLOURS[0], ms=4)
    middle, fewer = len(sides) // 2, f"{full[-1] / windowed[-1]:.0f} times fewer at {sides[-1]}"
    axes.annotate("full block", (sides[middle], full[middle]), (-10, 8), ha="right",
                  textcoords="offset points", fontsize=9, color=INK)  # fmt: skip
    axes.annotate(f"windowed block\n({fewer})", (sides[middle], windowed[middle]), (10, -30),
                  textcoords="offset points", fontsize=9, color=INK)  # fmt: skip
    axes.xaxis.set_major_locator(FixedLocator(sides.tolist()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_xlabel("side of a square image (pixels)", fontsize=9, color=INK)
    axes.set_ylabel("pairs in one head of one block", fontsize=9, color=INK)
    axes.grid(axis="y", color=FAINT, lw=0.5)
    return figure


def _pairs(side: int, config: VisionConfig) -> tuple[int, int]:
    """(full, windowed) pairs of a square image."""
    grid = np.array([[1, side // config.patch_size, side // config.patch_size]])
    _, windows = vision.window_index(grid, config)
    frames = vision.frame_seqlens(grid)
    return int(np.sum(np.diff(frames) ** 2)), int(np.sum(np.diff(windows) ** 2))


def attention_from_patch(
    weights: Float[Array, "A N"],
    key_ranges: Int[Array, "A 2"],
    grid_thw: Int[Array, "I 3"],
    vision_config: VisionConfig,
    patch: int,
    names: Sequence[str],
    image: Any = None,
    title: str = "Where one patch looks",
) -> Drawing:
    """Where one patch looks, in several heads or blocks, laid back on the image.

    ``weights`` are rows of ``nn.attention_weights``, one a panel, over all patches in window order
    (``Model.attention_weights`` gives them); ``key_ranges`` what that row may look at; ``patch``
    the number of the row, in window order too. Hatched patches cannot be seen; thin lines are
    windows; the ring is the patch that looks. Every panel has its own scale, up to the number above
    it.
    """
    index, boundaries = vision.window_index(grid_thw, vision_config)
    block = np.arange(vision_config.merged_patches)
    order = np.reshape(index[:, None] * len(block) + block, -1)
    row, column = vision.patch_positions(grid_thw, vision_config.spatial_merge_size)[order].T
    frames = vision.frame_seqlens(grid_thw)
    frame = int(np.searchsorted(frames, patch, side="right")) - 1
    here = slice(frames[frame], frames[frame + 1])
    places = np.stack([column, row], axis=1)[here]
    windows = np.repeat(np.arange(len(boundaries) - 1), np.diff(boundaries))[here]
    w, h = np.max(places, axis=0) + 1
    seat = column[patch], row[patch]
    alt = f"The patch in row {row[patch]}, column {column[patch]} of {h} rows of {w} patches. "
    alt += " ".join(
        f"{name}: sees {last - first} patches, looks most at row {row[best]}, column {column[best]}"
        f" ({100 * each[best]:.1f} %)."
        for name, each, (first, last), best in zip(
            names, weights, key_ranges.tolist(), np.argmax(weights, axis=1), strict=True
        )
    )
    figure, panels = _panels(title, alt, len(weights) + (image is not None), h / w)
    if image is not None:
        panels[0].imshow(image, extent=(0, w, h, 0))
        panels[0].set_title("the image\nand its windows", fontsize=8.5, color=INK)
    maps = panels[image is not None :]
    for axes, each, (first, last), name in zip(
        maps, weights, key_ranges.tolist(), names, strict=True
    ):
        seen = np.full((h, w), np.nan)
        visible = (first <= np.arange(len(row))) & (np.arange(len(row)) < last)
        seen[row[visible], column[visible]] = each[visible]
        axes.add_patch(Rectangle((0, 0), w, h, facecolor="#eeeeee", edgecolor=FAINT, hatch="////"))
        shown = axes.imshow(seen / np.nanmax(seen), cmap=SEQUENTIAL, vmin=0, vmax=1,
                            extent=(0, w, h, 0), interpolation="nearest", zorder=2)  # fmt: skip
        axes.set_title(f"{name}\nat most {100 * np.nanmax(seen):.1f} %", fontsize=8.5, color=INK)
    for axes in panels:
        _outlines(axes, places, windows, edgecolor=PAPER, lw=2.0, zorder=3)
        _outlines(axes, places, windows, edgecolor=INK, lw=0.7, zorder=3)
        axes.add_patch(Rectangle(seat, 1, 1, fill=False, edgecolor=PAPER, lw=3.2, zorder=4))
        axes.add_patch(Rectangle(seat, 1, 1, fill=False, edgecolor=COLOURS[5], lw=1.8, zorder=4))
        axes.set(xlim=(0, w), ylim=(h, 0), aspect="equal")
        axes.set_axis_off()
    bar = figure.colorbar(shown, ax=panels.tolist(), shrink=0.7, ticks=[0, 1])
    bar.ax.set_yticklabels(["0", "most"], fontsize=8)
    return figure


def _panels(title: str, alt: str, number: int, tall: float) -> tuple[Drawing, Any]:
    """Panels for an image ``tall`` times as high as wide, at most three in a row."""
    across = min(number, 3)
    down = -(-number // across)
    size = (7.5, min(0.5 + down * (0.45 + 6.6 / across * tall), 8.5))
    figure, panels = drawing(title, alt, down, across, size, squeeze=False)
    for axes in np.ravel(panels)[number:]:
        axes.remove()
    return figure, np.ravel(panels)[:number]
