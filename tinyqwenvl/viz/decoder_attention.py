"""The decoder's attention to image tokens, drawn over the image and compared with a box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

from ..dims import Array, Float
from .style import (
    COLOURS,
    FAINT,
    INK,
    OVERLAY,
    PAPER,
    SEQUENTIAL,
    Drawing,
    draw_border,
    drawing,
    show_image,
)
from .words import readable

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


def box_coverage(
    box: Box, grid: Sequence[int], merge: int = 2, patch: int = 14
) -> Float[Array, "M"]:
    """How much of each image token's square lies in ``box``, from 0 to 1, in raster order.

    ``grid`` is (t, h, w) in patches; ``box`` is (left, top, right, bottom) in pixels of the
    resized image, and the same at every time.
    """
    side = merge * patch
    left = np.arange(grid[2] // merge) * side
    top = np.arange(grid[1] // merge) * side
    across = np.minimum(left + side, box[2]) - np.maximum(left, box[0])
    down = np.minimum(top + side, box[3]) - np.maximum(top, box[1])
    cover = np.clip(down, 0, None)[:, None] * np.clip(across, 0, None) / side**2
    return np.tile(np.ravel(cover), grid[0])


def attention_in_box(
    weights: Float[Array, "... M"], cover: Float[Array, "M"]
) -> Float[Array, "..."]:
    """The share of the attention to the image that falls on what ``cover`` covers.

    Attention to text is left out of the sum. Uniform attention gives the mean of ``cover``:
    the share of area.
    """
    return np.sum(weights * cover, axis=-1) / np.sum(weights, axis=-1)


def attention_in_box_by_head(
    shares: Float[Array, "... A"], level: float, title: str = "Attention inside the box, by head"
) -> Drawing:
    """The share of attention inside a box, for every layer (rows) and head (columns).

    ``shares`` is [layers, heads], each from 0 to 1 (:func:`attention_in_box`); ``level`` is the
    share of area, and so the share under uniform attention. The largest is framed.
    """
    layers, heads = shares.shape
    layer, head = np.unravel_index(np.argmax(shares), shares.shape)
    alt = (
        f"A table of {layers} layers by {heads} heads. Layer {layer}, head {head} has the largest "
        f"share of its attention inside the box: {shares[layer, head]:.0%}. The box covers "
        f"{level:.0%} of the area; {np.count_nonzero(shares > 2 * level)} of {shares.size} have "
        "more than twice that share inside."
    )
    wide = float(np.clip(1.8 + 0.62 * heads, 4.2, 7.5))
    tall = float(np.clip(1.2 + 0.36 * layers, 2.2, 9))
    figure, axes = drawing(title, alt, size=(wide, tall))
    heatmap = axes.imshow(100 * shares, cmap=SEQUENTIAL, vmin=0, vmax=100, aspect="auto")
    if heads <= 12 and layers <= 20:
        for (i, j), share in np.ndenumerate(shares):
            ink = PAPER if share < 0.5 else INK
            axes.text(j, i, f"{share:.0%}", ha="center", va="center", fontsize=8, color=ink)
        axes.set_xticks(np.arange(heads))
        axes.set_yticks(np.arange(layers))
    frame = Rectangle((head - 0.5, layer - 0.5), 1, 1, fill=False, ec=COLOURS[5], lw=2.5)
    axes.add_patch(frame)
    axes.set_xlabel("head", fontsize=9)
    axes.set_ylabel("layer", fontsize=9)
    bar = figure.colorbar(heatmap, ax=axes)
    bar.ax.axhline(100 * level, color=COLOURS[5], lw=2.5)
    bar.set_label(f"% inside (line: share of the area, {level:.0%})", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    return figure


def attention_over_image(
    image: Any,
    weights: Float[Array, "S M"],
    grid: Sequence[int],
    labels: Sequence[str],
    merge: int = 2,
    patch: int = 14,
    boxes: Sequence[Box] = (),
    columns: int = 3,
    title: str = "Attention to image tokens",
) -> Drawing:
    """Attention weights of some query positions for each image token, over the image.

    ``weights`` are rows of any head of any layer (:meth:`Model.attention_weights`), cut to the
    keys that are image tokens; ``labels`` names each row. ``grid`` is (t, h, w) in patches;
    with t > 1, ``image`` is a list of t images, and each time has its own column. All rows share
    one scale, from transparent to red, and over each is the share of its attention that goes to
    image tokens at all; the largest weight is framed. ``boxes``, in pixels of the resized image,
    are outlined everywhere. Look for rows that turn red where the noun of the next token is.
    """
    t, down, across = grid[0], grid[1] // merge, grid[2] // merge
    images = list(image) if isinstance(image, (list, tuple)) else [image] * t
    maps = np.reshape(weights, (len(weights), t, down, across))
    columns = t if t > 1 else max(1, min(columns, 1 + len(weights)))
    rows = -(-(1 + len(weights)) * t // columns)
    tall = 0.5 + rows * (0.42 + min(2.2 * down / across, 3.5) * 3 / max(columns, 3))
    size = (min(max(2.2 * min(columns, 3) + 0.9, 4.0), 7.5), tall)
    figure, axes = drawing(title, _attention_alt(maps, labels), rows, columns, size, squeeze=False)
    panels = list(np.ravel(axes))
    extent = (0, grid[2] * patch, grid[1] * patch, 0)
    for axis in panels:
        axis.set_axis_off()
    for time, axis in enumerate(panels[:t]):
        show_stretched(axis, images[time], extent, "the image" if t == 1 else f"time {time}")
        draw_token_grid(axis, down, across, merge * patch)
    heatmap = None
    for panel, axis in enumerate(panels[t : t * (1 + len(weights))]):
        row, time = divmod(panel, t)
        show_stretched(axis, images[time], extent, "")
        heatmap = axis.imshow(
            100 * maps[row, time],
            **{"cmap": OVERLAY, "vmin": 0, "vmax": 100 * np.max(weights)},
            **{"extent": extent, "interpolation": "nearest"},
        )
        draw_border(axis, extent[1], extent[2])
        y, x = np.unravel_index(np.argmax(maps[row, time]), (down, across))
        corner = (float(x * merge * patch), float(y * merge * patch))
        side = merge * patch
        for colour, width in ((PAPER, 2.6), (INK, 1.2)):
            frame = Rectangle(corner, side, side, fill=False, ec=colour, lw=width, gid="most")
            axis.add_patch(frame)
        named = f"{readable(labels[row])}\n{np.sum(maps[row, time]):.0%} of its attention is here"
        axis.set_title(named, fontsize=8, color=INK)
    for axis in panels[: t * (1 + len(weights))]:
        for box in boxes:
            _outline(axis, box)
    figure.supxlabel("framed: the largest weight", fontsize=8, color=INK)
    if heatmap is not None:
        bar = figure.colorbar(heatmap, ax=panels, shrink=0.8, aspect=30, pad=0.02)
        bar.set_label("attention weight, %", fontsize=8)
        bar.ax.tick_params(labelsize=8)
    return figure


def _attention_alt(maps: np.ndarray, labels: Sequence[str]) -> str:
    """The alt text of :func:`attention_over_image`."""
    t, down, across = maps.shape[1:]
    said = []
    for label, row in zip(labels[:6], maps, strict=False):
        time, y, x = np.unravel_index(np.argmax(row), row.shape)
        when = f"time {time}, " if t > 1 else ""
        said.append(f"{readable(label)} most at {when}row {y}, column {x} ({np.max(row):.0%})")
    return (
        f"The image, and how much {len(labels)} query positions of one head attend to each of its "
        f"{down} x {across} tokens. Rows and columns count from 0: {'; '.join(said)}."
    )


def show_stretched(axis: Any, image: Any, extent: tuple[float, ...], title: str) -> None:
    """An image whose coordinates are those of ``extent``: left, right, bottom, top."""
    show_image(axis, image, title)
    axis.images[0].set_extent(extent)
    axis.set(xlim=extent[:2], ylim=extent[2:])


def draw_token_grid(axis: Any, down: int, across: int, side: int) -> None:
    """Thin lines between the squares of the image tokens."""
    lines = {"color": FAINT, "lw": 0.5}
    axis.vlines(np.arange(across + 1) * side, 0, down * side, **lines)
    axis.hlines(np.arange(down + 1) * side, 0, across * side, **lines)


def _outline(axis: Any, box: Box) -> None:
    """A box visible on dark and on light."""
    left, top, right, bottom = box
    for colour, style in ((INK, "-"), (PAPER, (0, (3, 3)))):
        place = ((left, top), right - left, bottom - top)
        axis.add_patch(Rectangle(*place, fill=False, ec=colour, lw=1.6, ls=style))
