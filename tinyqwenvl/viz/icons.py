"""Small drawings of stages, from a recorded run, for :mod:`~tinyqwenvl.viz.model_map`."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyArrowPatch, Rectangle

from .. import nn, vision
from ..config import Config
from .position import AXES
from .style import COLOURS, FAINT, INK, PAPER
from .vision_windows import tint
from .words import drawable

WIDTH, HEIGHT = 10.4, 6.1  # inches, and the units of the axes


class Run(NamedTuple):
    """The data of a run that the figure shows."""

    stages: Mapping[str, Sequence[Any]]  # stage -> its arrays, one per call
    config: Config  # the model's
    image: np.ndarray  # original image: height, width, channels
    words: Sequence[str]  # text of each generated token

    def first(self, name: str) -> Any:
        """The array of a stage in its first call."""
        return self.stages[name][0]

    def shape(self, name: str) -> str:
        """As in [384, 1176]."""
        return str(list(np.shape(self.first(name))))

    @property
    def windowed(self) -> bool:
        """Whether the encoder has windows: Qwen2.5-VL has them, Qwen2-VL has not."""
        return "visual.window_index" in self.stages

    @property
    def family(self) -> str:
        """As the papers write it."""
        return "Qwen2.5-VL" if self.config.model_type == "qwen2_5_vl" else "Qwen2-VL"

    @property
    def media(self) -> Any:
        """[S] True where an image token stands."""
        return self.first("input_ids") == self.config.image_token_id


def say(axes: Axes, x: float, y: float, text: str, size: float = 8, **look: Any) -> None:
    """Text at a point; the size in points."""
    how: dict[str, Any] = {"ha": "center", "va": "center", "color": INK, "linespacing": 1.15}
    axes.text(x, y, text, fontsize=size, parse_math=False, **(how | look))


def arrow(axes: Axes, points: Sequence[tuple[float, float]], colour: str = INK) -> None:
    """A line through points, with a head at the end."""
    *first, last = points
    if len(points) > 2:
        axes.plot(
            *np.transpose(first), color=colour, linewidth=1.5, solid_capstyle="butt", zorder=3
        )
    look: dict[str, Any] = {
        "arrowstyle": "-|>,head_width=2.4,head_length=4",
        "color": colour,
        "linewidth": 1.5,
    }
    axes.add_patch(FancyArrowPatch(first[-1], last, shrinkA=0, shrinkB=0, zorder=3, **look))


# ------------------------------------------------------------------ one function per drawing

Place = tuple[float, float, float, float]  # left, right, top, bottom


def _fit(place: Place, high: float, wide: float) -> tuple[float, float, float, float]:
    """The largest area of a form inside a place, as an extent: left, right, bottom, top."""
    left, right, top, bottom = place
    scale = min((right - left) / wide, (bottom - top) / high)
    x, y = (left + right - wide * scale) / 2, (top + bottom - high * scale) / 2
    return x, x + wide * scale, y + high * scale, y


def _pixels(axes: Axes, pixels: Any, place: Place, **look: Any) -> tuple[float, ...]:
    extent = _fit(place, *np.shape(pixels)[:2])
    axes.imshow(pixels, extent=extent, interpolation="nearest", zorder=2, **look)
    left, right, low, top = extent
    axes.add_patch(Rectangle((left, top), right - left, low - top, fill=False, edgecolor=INK,
                             linewidth=0.6, zorder=3))  # fmt: skip
    axes.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0), aspect="equal")
    return extent


def thumbnail(axes: Axes, run: Run, place: Place) -> None:
    """The original image."""
    _pixels(axes, run.image, place)


def _resized(run: Run) -> np.ndarray:
    return np.asarray(run.first("image.resize"))[0].astype(np.uint8)


def gridded(axes: Axes, run: Run, place: Place) -> None:
    """The resized image and its tokens."""
    pixels = _resized(run)
    left, right, low, top = _pixels(axes, pixels, place)
    side = run.config.vision.patch_size * run.config.vision.spatial_merge_size
    across, down = pixels.shape[1] // side, pixels.shape[0] // side
    axes.vlines(np.linspace(left, right, across + 1), top, low, color=INK, lw=0.35, zorder=3)
    axes.hlines(np.linspace(top, low, down + 1), left, right, color=INK, lw=0.35, zorder=3)


def exploded(axes: Axes, run: Run, place: Place) -> None:
    """Some patches, pulled apart; groups of a token further than patches."""
    pixels, patch = _resized(run), run.config.vision.patch_size
    merge, gap = run.config.vision.spatial_merge_size, 3
    ink = np.abs(pixels.astype(int) - pixels[0, 0]).sum(axis=2) > 90
    rows, columns = (min(3 * merge, n // patch // merge * merge) for n in pixels.shape[:2])
    first = np.argwhere(ink)[0] if ink.any() else (0, 0)  # the uppermost pixel that is not paper
    y, x = (
        min(int(m) // patch // merge * merge * patch, size - n * patch)
        for m, n, size in zip(first, (rows, columns), pixels.shape, strict=False)
    )
    shift = [[n * (patch + gap) + n // merge * gap * 2 for n in range(k)] for k in (rows, columns)]
    paper = np.full((shift[0][-1] + patch, shift[1][-1] + patch, 3), 255, np.uint8)
    for i, j in np.ndindex(rows, columns):
        cut = pixels[
            y + i * patch : y + (i + 1) * patch, x + j * patch : x + (j + 1) * patch
        ].copy()
        cut[[0, -1]] = cut[:, [0, -1]] = 120
        a, b = shift[0][i], shift[1][j]
        paper[a : a + patch, b : b + patch] = cut
    axes.imshow(paper, extent=_fit(place, *paper.shape[:2]), interpolation="nearest", zorder=2)
    axes.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0), aspect="equal")


def _values(axes: Axes, place: Place, array: Any, rows: int = 22, columns: int = 24) -> None:
    part = np.asarray(array)[:rows, :columns]
    most = float(np.percentile(np.abs(part), 98)) or 1.0
    _pixels(axes, part, place, cmap="PuOr", vmin=-most, vmax=most)


def embedded(axes: Axes, run: Run, place: Place) -> None:
    """Some values of the patch embedding."""
    _values(axes, place, run.first("visual.patch_embed"))


def looked_up(axes: Axes, run: Run, place: Place) -> None:
    """Some values of the token embedding."""
    _values(axes, place, run.first("model.embed_tokens"))


def _token_grid(run: Run) -> tuple[int, int]:
    _, h, w = np.asarray(run.first("image_grid_thw"))[0].tolist()
    merge = run.config.vision.spatial_merge_size
    return h // merge, w // merge


def _path(axes: Axes, run: Run, place: Place, order: Any, groups: Any) -> None:
    """The tokens of the image as cells, and a line through them in an order."""
    down, across = _token_grid(run)
    colours = np.array([tint(int(g)) for g in groups]).reshape(down, across, 3)
    left, right, low, top = _pixels(axes, colours, place)
    y, x = np.divmod(np.asarray(order)[: down * across], across)
    axes.plot(left + (x + 0.5) * (right - left) / across, top + (y + 0.5) * (low - top) / down,
              color=INK, linewidth=0.7, zorder=3)  # fmt: skip


def _windows(run: Run) -> tuple[Any, Any]:
    """The order of windows, and the window of each token in raster order."""
    config = run.config.vision
    if not run.windowed:
        tokens = math.prod(_token_grid(run))
        return np.arange(tokens), np.zeros(tokens, int)
    index, ends = vision.window_index(np.asarray(run.first("image_grid_thw")), config)
    windows = np.repeat(np.arange(len(ends) - 1), np.diff(ends) // config.merged_patches)
    return index, windows[np.argsort(index)]


def window_path(axes: Axes, run: Run, place: Place) -> None:
    """Tokens in window order."""
    _path(axes, run, place, *_windows(run))


def raster_path(axes: Axes, run: Run, place: Place) -> None:
    """Tokens in raster order, in the colours of their windows."""
    index, windows = _windows(run)
    _path(axes, run, place, np.arange(len(index)), windows)


def _mask(axes: Axes, place: Place, key_ranges: Any, keys: int) -> None:
    mask = nn.visible_keys(np.asarray(key_ranges), keys)
    _pixels(axes, np.where(mask[..., None], to_rgb(COLOURS[0]), to_rgb("#eeeeee")), place)


def encoder_masks(axes: Axes, run: Run, place: Place) -> None:
    """The attention mask of a windowed block, and of a full one."""
    left, right, top, bottom = place
    full = run.config.vision.fullatt_block_indexes if run.windowed else (0,)
    kinds = [i for i in range(run.config.vision.depth * run.windowed) if i not in full][:1]
    kinds += list(full)[:1]
    wide = (right - left - 0.08) / 2
    for number, block in enumerate(kinds):
        at = left + number * (wide + 0.08)
        ranges = run.first(f"visual.blocks.{block}.attn.key_ranges")
        _mask(axes, (at, at + wide, top, bottom), ranges, len(ranges))
        say(axes, at + wide / 2, bottom - 0.05, ("window", "full")[block in full], size=6.8)


def merging(axes: Axes, run: Run, place: Place) -> None:
    """Patches of one group, and the token that they become."""
    left, right, top, _ = place
    side, merge = 0.2, run.config.vision.spatial_merge_size
    y = (top + place[3]) / 2
    for number in range(merge * merge):
        i, j = divmod(number, merge)
        corner = (left + 0.02 + j * side, y + (i - merge / 2) * side)
        axes.add_patch(Rectangle(corner, side - 0.02, side - 0.02, facecolor=COLOURS[4],
                                 edgecolor=INK, linewidth=0.6))  # fmt: skip
    arrow(axes, [(left + merge * side + 0.05, y), (right - 0.27, y)])
    axes.add_patch(
        Rectangle((right - 0.23, y - 0.1), side, side, facecolor=COLOURS[0], linewidth=0)
    )


def _cells(axes: Axes, place: Place, colours: Any) -> None:
    """Tokens as cells, in lines."""
    across = math.ceil(math.sqrt(len(colours)))
    blank = [to_rgb(PAPER)] * (-len(colours) % across)
    table = np.array([*colours, *blank]).reshape(-1, across, 3)
    left, right, low, top = _pixels(axes, table, place)
    look: dict[str, Any] = {"color": PAPER, "lw": 0.4, "zorder": 3}
    axes.vlines(np.linspace(left, right, across + 1), top, low, **look)
    axes.hlines(np.linspace(top, low, len(table) + 1), left, right, **look)


def ids(axes: Axes, run: Run, place: Place) -> None:
    """Text tokens blue, placeholders yellow."""
    _cells(axes, place, [to_rgb("#f3c766" if m else "#9fc9e6") for m in run.media])


def scattered(axes: Axes, run: Run, place: Place) -> None:
    """Text tokens blue, image tokens in the colours of the image."""
    down, across = _token_grid(run)
    pixels = _resized(run) / 255
    means = pixels.reshape(down, pixels.shape[0] // down, across, -1, 3).mean(axis=(1, 3))
    colours = np.tile(to_rgb("#9fc9e6"), (len(run.media), 1))
    colours[run.media] = means.reshape(-1, 3)
    _cells(axes, place, colours)


def decoder(axes: Axes, run: Run, place: Place) -> None:
    """The causal mask, and the positions of all tokens on three axes."""
    left, right, top, bottom = place
    ranges = run.first("model.layers.0.self_attn.key_ranges")
    _mask(axes, (left, left + 0.85, top, bottom), ranges, len(ranges))
    positions = np.asarray(run.first("model.position_ids"))
    x = np.linspace(left + 1.08, right - 0.05, positions.shape[1])
    corner = [left + 1.05, left + 1.05, right], [top + 0.15, bottom - 0.05, bottom - 0.05]
    axes.plot(*corner, color=INK, linewidth=0.7)
    for row, colour, size in zip(positions, COLOURS, (1.6, 1.3, 1.0), strict=False):
        y = bottom - 0.09 - row / max(1, positions.max()) * (bottom - top - 0.26)
        axes.plot(x, y, ".", color=colour, markersize=size * 1.8, markeredgewidth=0)
    for at, name, colour in zip((1.05, 1.38, 1.8), AXES, (COLOURS[0], "#a86f00", "#007a59"),
                                strict=True):  # fmt: skip
        say(axes, left + at, top + 0.09, name, size=7.2, ha="left", va="baseline", color=colour)


def logits(axes: Axes, run: Run, place: Place) -> None:
    """The five highest probabilities of the first step."""
    left, right, top, bottom = place
    p = np.sort(nn.softmax(np.asarray(run.first("lm_head"), np.float64)[-1]))[::-1][:5]
    step = (right - left) / 5
    for number, height in enumerate(p.tolist()):
        tall = max(0.015, height * (bottom - top - 0.08))
        colour = COLOURS[5] if number == 0 else FAINT
        axes.add_patch(Rectangle((left + number * step + 0.02, bottom - tall), step - 0.04, tall,
                                 facecolor=colour, linewidth=0, zorder=2))  # fmt: skip
    axes.plot([left, right], [bottom, bottom], color=INK, linewidth=0.7)


def wrapped(text: str, width: int, most: int) -> Callable[[Axes, Run, Place], None]:
    """A text in a box, in at most so many lines."""
    lines = [line for part in text.split("\n") for line in textwrap.wrap(drawable(part), width)]
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1] + " …"]

    def draw(axes: Axes, run: Run, place: Place) -> None:
        left, right, top, bottom = place
        say(axes, (left + right) / 2, (top + bottom) / 2, "\n".join(lines), size=7.8)

    return draw
