"""The encoder's attention: its masks, and the weights of one patch laid over the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from .. import nn, vision
from ..config import VisionConfig
from ..dims import Array, Float, Int
from .style import COLOURS, FAINT, INK, PAPER, SEQUENTIAL, Drawing, drawing
from .vision_windows import outline_windows


def attention_mask(key_ranges: Any, keys: int, title: str = "Attention mask") -> Drawing:
    """The attention mask of key ranges: queries are rows, the ``keys`` they attend to columns.

    ``key_ranges`` [S, 2] is drawn as ``nn.visible_keys`` reads it; a dictionary of them draws
    one panel each. Blue squares on the diagonal are windows (or frames, or
    images); their share of all pairs is the share of work.
    """
    named = key_ranges if isinstance(key_ranges, Mapping) else {"": key_ranges}
    masks = {name: nn.visible_keys(each, keys) for name, each in named.items()}
    counts = {name: f"{np.sum(m):,} of {m.size:,} pairs ({100 * np.mean(m):.0f}%)"
              for name, m in masks.items()}  # fmt: skip
    different = {name: len(np.unique(each, axis=0)) for name, each in named.items()}
    alt = ". ".join(
        f"{name or 'Mask'}: {counts[name]} are allowed, "
        f"in {different[name]} different {'key ranges' if different[name] > 1 else 'key range'}"
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
        axes.set_xlabel("key position", fontsize=8, color=INK)
        axes.locator_params(integer=True, nbins=4 if len(mask) > 24 else 9)
    panels[0, 0].set_ylabel("query position", fontsize=8, color=INK)
    return figure


def window_masks(grid_thw: Int[Array, "I 3"], vision_config: VisionConfig) -> Drawing:
    """The attention mask of a windowed block, with merged tokens in raster and in window order.

    Both panels allow the same pairs. Left, queries and keys stand in raster order, and the pairs of
    a window are scattered in stripes; right, the same mask with rows and columns reordered by
    ``vision.window_index``: every window is one square on the diagonal, so a key range (first, end)
    says all. A position is a merged token: four patches.
    """
    index, boundaries = vision.window_index(grid_thw, vision_config)
    lengths = np.diff(boundaries) // vision_config.merged_patches
    window = np.repeat(np.arange(len(lengths)), lengths)
    reordered = window[:, None] == window
    number = window[np.argsort(index)]
    raster = number[:, None] == number
    runs = int(np.max(np.sum(np.diff(raster.astype(int), prepend=0, axis=1) == 1, axis=1)))
    alt = (
        f"Two attention masks of {len(index)} merged tokens in {len(lengths)} windows; both allow "
        f"{int(np.sum(raster)):,} of {raster.size:,} pairs. In raster order the keys of a query "
        f"are scattered over up to {runs} runs; in window order each window is one square on the "
        "diagonal."
    )
    figure, panels = drawing("Attention mask of a windowed block", alt, 1, 2, (7.5, 4.1))
    names = ("raster order: scattered keys", "window order: one key range per query")
    colours = np.array([to_rgb(COLOURS[n % 7]) for n in range(len(lengths))])
    for axes, mask, of, name in zip(panels, (raster, reordered), (number, window), names,
                                    strict=True):  # fmt: skip
        shown = np.where(mask[..., None], colours[of][:, None], to_rgb("#eeeeee"))
        axes.imshow(shown, interpolation="nearest")
        axes.set_title(name, fontsize=9, color=INK)
        axes.set_xlabel("key position (merged token)", fontsize=8, color=INK)
        axes.locator_params(integer=True, nbins=6)
    panels[0].set_ylabel("query position (merged token)", fontsize=8, color=INK)
    figure.supxlabel("colours: windows; grey: masked", fontsize=8, color=INK)
    return figure


def attention_from_patch(
    weights: Float[Array, "A N"],
    key_ranges: Int[Array, "A 2"],
    grid_thw: Int[Array, "I 3"],
    vision_config: VisionConfig,
    patch: int,
    names: Sequence[str],
    image: Any = None,
    title: str = "Attention of one patch",
) -> Drawing:
    """Attention weights of one patch, in several heads or blocks, laid over the image.

    ``weights`` are rows of ``nn.attention_weights``, one per panel, over all patches in window
    order (``Model.attention_weights`` gives them); ``key_ranges`` the keys that row may attend to;
    ``patch`` the index of the query, in window order too. Hatched patches are masked; thin lines
    are windows; the ring is the query. Every panel has its own scale, up to the number above it.
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
        f"{name}: attends to {last - first} patches, most to row {row[best]}, column {column[best]}"
        f" ({100 * each[best]:.1f}%)."
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
        axes.set_title(f"{name}\nat most {100 * np.nanmax(seen):.1f}%", fontsize=8.5, color=INK)
    for axes in panels:
        outline_windows(axes, places, windows, edgecolor=PAPER, lw=2.0, zorder=3)
        outline_windows(axes, places, windows, edgecolor=INK, lw=0.7, zorder=3)
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
