"""Windows of the vision encoder: the order of tokens, and the attention pairs they save."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, NullLocator

from .. import vision
from ..config import VisionConfig
from ..dims import Array, Float, Int, UInt8
from .style import COLOURS, FAINT, INK, PAPER, Drawing, drawing, show_image

GAP = 0.6  # between frames that stand below each other, in tokens
MOST_ROWS = 24  # windows that are listed one by one


def tint(number: int, much: float = 0.45) -> Any:
    """The colour of a window: one of seven, made light enough to write on."""
    colour = np.array(to_rgb(COLOURS[number % 7]))
    return 1 - much * (1 - colour)


def _places(grid_thw: Int[Array, "I 3"], config: VisionConfig) -> Float[Array, "M 2"]:
    """(x, y) of the corner of every merged token, in raster order; one frame below another."""
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
        axes.add_patch(Rectangle((x, y), 1, 1, facecolor=tint(window), edgecolor=PAPER, lw=0.8))
        if size:
            axes.text(x + 0.5, y + 0.53, f"{number}", fontsize=size, color=INK, ha="center",
                      va="center")  # fmt: skip
    axes.set_axis_off()


def outline_windows(axes: Any, places: Any, windows: Any, **look: Any) -> None:
    """A frame around each window."""
    for window in np.unique(windows):
        corner = np.min(places[windows == window], axis=0)
        width, height = np.max(places[windows == window], axis=0) + 1 - corner
        axes.add_patch(Rectangle(corner, width, height, fill=False, **look))


def window_order(grid_thw: Int[Array, "I 3"], vision_config: VisionConfig) -> Drawing:
    """The order that ``vision.window_index`` gives to merged tokens: before, after, and undone.

    Above, the tokens where they stand in the image (frames and images below each other), thick
    lines around the windows: on the left numbered in raster order, on the right with the position
    of each in window order (``np.argsort(index)``). Below, one row per window: ``index`` itself.
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
        f"{len(index)} merged tokens, {_ranged(lengths)} per window; {cut} of {len(lengths)} "
        f"windows have fewer than the largest. {int(np.sum(index != np.arange(len(index))))} have"
        f" another position in window order, which begins {', '.join(map(str, index[:6]))}; its"
        f" inverse begins {', '.join(map(str, inverse[:6]))}."
    )
    figure, panels = drawing("Raster order and window order", alt, 2, 2,
                             (7.5, sum(heights) + 0.4), height_ratios=heights)  # fmt: skip
    titles = (
        "raster order: the index of each token",
        "argsort(index): its position in window order",
    )
    for axes, numbers, title in zip(
        panels[0], (np.arange(len(index)), inverse), titles, strict=True
    ):
        _cells(axes, places, numbers, of_token, size)
        outline_windows(axes, places, of_token, edgecolor=INK, lw=1.6)
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
        axes.text(-0.3, top + 0.5, f"image {image}\nframe pair {frame}", fontsize=7.5, color=INK,
                  ha="right", va="center")  # fmt: skip
    axes.set_xlim(-2.2 * (np.max(places[:, 0]) + 1) / 6, None)


def _ranged(lengths: Int[Array, "G"]) -> str:
    """As in 4 to 16, or 16 alone."""
    least, most = np.min(lengths), np.max(lengths)
    return f"{most}" if least == most else f"{least} to {most}"


def _list_windows(axes: Any, index: Any, windows: Any, lengths: Any, listed: int) -> None:
    """``index``, one row per window."""
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
    axes.set_title(
        f"index: which token comes next, one row per window{which}", fontsize=9, color=INK
    )


def tiles_in_order(
    image: UInt8[Array, "H W 3"], orders: Mapping[str, Int[Array, "M"]], tile: int = 28
) -> Drawing:
    """An image whose tiles (one a merged token) stand in other orders, one panel each.

    ``orders`` maps a name to the numbers of the tiles in the order in which they are put down, row
    by row: what the language model receives if that order is wrong.
    """
    rows, columns = image.shape[0] // tile, image.shape[1] // tile
    cut = np.reshape(image[: rows * tile, : columns * tile], (rows, tile, columns, tile, 3))
    tiles = np.reshape(np.swapaxes(cut, 1, 2), (rows * columns, tile, tile, 3))
    moved = {name: int(np.sum(order != np.arange(len(order)))) for name, order in orders.items()}
    alt = "; ".join(
        f"{name}: {'every tile at its position' if not n else f'{n} of {len(tiles)} tiles moved'}"
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
        axes.set_title(f"{name}\n{moved[name]} of {len(tiles)} moved", fontsize=8.5, color=INK)
    return figure


def pairs_by_size(sides: Int[Array, "S"], vision_config: VisionConfig) -> Drawing:
    """Query-key pairs of one head in one block, in square images of ``sides`` pixels.

    Both axes are logarithmic. The full line grows with the fourth power of the side, the windowed
    one with its square (the number of patches); the gap is what windows save.
    """
    full, windowed = np.array([_pairs(int(side), vision_config) for side in sides]).T
    alt = (
        f"At {sides[0]} pixels per side {full[0]:,} pairs with full attention and {windowed[0]:,}"
        f" with windowed attention; at {sides[-1]} pixels {full[-1]:,} and {windowed[-1]:,},"
        f" that is {full[-1] / windowed[-1]:.0f} times fewer."
    )
    figure, axes = drawing("Attention pairs with and without windows", alt, size=(6.5, 3.6))
    axes.loglog(sides, full, "o-", color=COLOURS[5], ms=4)
    axes.loglog(sides, windowed, "s--", color=COLOURS[0], ms=4)
    middle, fewer = len(sides) // 2, f"{full[-1] / windowed[-1]:.0f} times fewer at {sides[-1]}"
    axes.annotate("full attention", (sides[middle], full[middle]), (-10, 8), ha="right",
                  textcoords="offset points", fontsize=9, color=INK)  # fmt: skip
    axes.annotate(f"windowed attention\n({fewer})", (sides[middle], windowed[middle]), (10, -30),
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
