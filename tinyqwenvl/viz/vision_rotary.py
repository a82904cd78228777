"""The vision encoder's 2-D rotary embedding: frequencies, angles, and scores by distance."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

from .. import nn, vision
from ..config import VisionConfig
from ..dims import Array, Float, Int
from .style import COLOURS, FAINT, INK, PAPER, SEQUENTIAL, Drawing, drawing

AXES = ("row", "column")
LOOKS: tuple[dict[str, Any], ...] = (
    {"color": COLOURS[0]},
    {"color": COLOURS[1], "hatch": "////", "edgecolor": PAPER},
)


def _frequencies(config: VisionConfig) -> Float[Array, "D"]:
    """The rotation of one step, in radians: a quarter of the head."""
    return nn.rotary_frequencies(config.hidden_size // config.num_heads // 2, config.rope_theta)


def frequency_bands(vision_config: VisionConfig, largest: int = 64) -> Drawing:
    """Which quarter of a head rotates with the row or the column, and how fast.

    Above, the d dimensions of a head: i and i + d/2 are one 2-D pair. Below, for
    each of the d/2 pairs, how many patches make one full turn, 2 pi / frequency, on a logarithmic
    scale; the line is an image of ``largest`` patches a side: pairs above it never complete a turn
    in such an image. (Su et al. 2021, for two axes.)
    """
    frequencies = _frequencies(vision_config)
    quarter, turns = len(frequencies), 2 * np.pi / frequencies
    round_ = int(np.sum(turns <= largest))
    alt = (
        f"A head of {4 * quarter} dimensions: {quarter} rotate with the row, {quarter} with the"
        f" column, and their partners {2 * quarter} further on rotate alike. A full turn takes"
        f" {turns[0]:.1f} patches in the fastest pair and {turns[-1]:,.0f} in the slowest;"
        f" {round_} of {quarter} complete a turn within {largest} patches."
    )
    figure, (head, bars) = drawing("Rotation by row and by column", alt, 2, 1, (7.5, 4.6),
                                   height_ratios=(1, 2.6))  # fmt: skip
    _draw_head(head, quarter)
    for axis, (name, look) in enumerate(zip(AXES, LOOKS, strict=True)):
        where = axis * quarter + np.arange(quarter)
        bars.bar(where, turns, width=0.85, label=f"rotates with the {name}", **look)
    bars.axhline(largest, color=INK, lw=1, ls="--", label=f"an image of {largest} patches per side")
    bars.set(yscale="log", xlim=(-0.8, 2 * quarter - 0.2))
    bars.set_xlabel("dimension i of the head, with its partner i + d/2", fontsize=9, color=INK)
    bars.set_ylabel("patches for a full turn", fontsize=9, color=INK)
    bars.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=3)
    bars.locator_params(axis="x", integer=True)
    return figure


def _draw_head(axes: Any, quarter: int) -> None:
    """The four quarters of a head, and two pairs that rotate together."""
    for part in range(4):
        look: dict[str, Any] = {"edgecolor": PAPER, **LOOKS[part % 2]}
        look["facecolor"] = look.pop("color")
        axes.add_patch(Rectangle((part * quarter, 0), quarter, 1, alpha=0.75, **look))
        axes.text((part + 0.5) * quarter, 0.5, f"{AXES[part % 2]}\n{part * quarter} to "
                  f"{(part + 1) * quarter - 1}", ha="center", va="center", fontsize=8, color=INK,
                  bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.5})  # fmt: skip
    for i in (0, quarter):
        ends = {"xy": (i + 2 * quarter + 0.5, 1), "xytext": (i + 0.5, 1)}
        axes.annotate("", **ends, arrowprops={"arrowstyle": "<->", "color": INK,
                      "connectionstyle": "arc3,rad=-0.12"})  # fmt: skip
    axes.text(2 * quarter, 1.72, "one 2-D pair", ha="center", va="center", fontsize=8, color=INK,
              bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1})  # fmt: skip
    axes.set(xlim=(-0.2, 4 * quarter + 0.2), ylim=(-0.05, 2.0))
    axes.set_axis_off()


def angle_maps(
    grid_thw: Int[Array, "I 3"], vision_config: VisionConfig, numbers: Any = None
) -> Drawing:
    """The cosines of some angles at every patch of the first image, in raster order.

    ``numbers`` choose among the d/2 angles; None takes a fast and a slow one of each axis. Stripes
    across are angles of rows, upright stripes those of columns; wide stripes rotate slowly.
    """
    quarter = len(_frequencies(vision_config))
    if numbers is None:
        numbers = [0, quarter // 4, quarter, quarter + quarter // 4]
    _, h, w = grid_thw[0].tolist()
    angles = vision.rotary_angles(grid_thw[:1], vision_config)[: h * w]
    row, column = vision.patch_positions(grid_thw[:1], vision_config.spatial_merge_size)[: h * w].T
    maps = np.zeros((len(numbers), h, w))
    maps[:, row, column] = np.cos(angles[:, numbers]).T
    kinds = [AXES[number // quarter] for number in numbers]
    alt = f"{h} rows of {w} patches. " + " ".join(
        f"Angle {number}: {kind} times {angles[-1, number] / (h - 1, w - 1)[kind == 'column']:.3g},"
        f" {'horizontal' if kind == 'row' else 'vertical'} stripes."
        for number, kind in zip(numbers, kinds, strict=True)
    )
    size = (7.5, min(1.1 + 6.6 / len(numbers) * h / w, 6))
    figure, panels = drawing("The angles of every patch", alt, 1, len(numbers), size, squeeze=False)
    for axes, each, number, kind in zip(panels[0], maps, numbers, kinds, strict=True):
        shown = axes.imshow(each, cmap=SEQUENTIAL, vmin=-1, vmax=1, interpolation="nearest")
        axes.set_title(f"angle {number} ({kind})", fontsize=8.5, color=INK)
        axes.locator_params(integer=True, nbins=4)
        axes.set_xlabel("column of patches", fontsize=8, color=INK)
    panels[0, 0].set_ylabel("row of patches", fontsize=8, color=INK)
    bar = figure.colorbar(shown, ax=panels[0].tolist(), shrink=0.8, ticks=[-1, 0, 1])
    bar.set_label("cosine of the angle", fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=7)
    return figure


def score_by_distance(
    q: Float[Array, "d"], k: Float[Array, "d"], vision_config: VisionConfig, reach: int = 16
) -> Drawing:
    """How the attention score of a query with a key depends on the distance between the two.

    ``q`` and ``k`` are the vectors of one head before rotation; the key is ``reach`` patches or
    fewer above, below, left and right. Left, q . k / sqrt(d) for every distance in two dimensions;
    right, along the row and the column of the query. Only the relative position counts.
    """
    scores = distance_scores(q, k, vision_config, reach)
    top = np.unravel_index(np.argmax(scores), scores.shape)
    down, right = (int(each) - reach for each in top)
    alt = (
        f"Scores from {np.min(scores):.2f} to {np.max(scores):.2f}; {scores[reach, reach]:.2f} at"
        f" distance 0. The highest is {_steps(down, 'below', 'above')} and"
        f" {_steps(right, 'to the right', 'to the left')}."
    )
    figure, (area, lines) = drawing("Attention score by distance", alt, 1, 2,
                                    (7.5, 3.4))  # fmt: skip
    edge = reach + 0.5
    shown = area.imshow(scores, cmap=SEQUENTIAL, extent=(-edge, edge, edge, -edge))
    area.plot(0, 0, "+", color=PAPER, ms=11, mew=3.5)
    area.plot(0, 0, "+", color=INK, ms=9, mew=1.5)
    area.set_xlabel("key column - query column (patches)", fontsize=8, color=INK)
    area.set_ylabel("key row - query row (patches)", fontsize=8, color=INK)
    bar = figure.colorbar(shown, ax=area, shrink=0.8)
    area.locator_params(integer=True, nbins=7)
    bar.ax.set_title("score", fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=7)
    steps = np.arange(-reach, reach + 1)
    lines.plot(steps, scores[:, reach], "-", color=COLOURS[0], label="down the column")
    lines.plot(steps, scores[reach], "--", color=COLOURS[5], label="along the row")
    lines.axvline(0, color=FAINT, lw=0.8, zorder=0)
    lines.set_xlabel("distance (patches)", fontsize=8, color=INK)
    lines.set_ylabel("score q . k / sqrt(d)", fontsize=8, color=INK)
    lines.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure


def _steps(number: int, ahead: str, back: str) -> str:
    """As in 3 patches down."""
    return f"{abs(number)} patches {ahead if number >= 0 else back}"


def distance_scores(
    q: Float[Array, "d"], k: Float[Array, "d"], config: VisionConfig, reach: int
) -> Float[Array, "S S"]:
    """q . k / sqrt(d) with the key ``reach`` patches above to below, left to right of the query."""
    steps = np.astype(np.arange(-reach, reach + 1), q.dtype)
    frequencies = np.astype(_frequencies(config), q.dtype)
    down, right = np.reshape(np.stack(np.meshgrid(steps, steps, indexing="ij")), (2, -1))
    angles = np.concatenate([down[:, None] * frequencies, right[:, None] * frequencies], axis=1)
    angles = np.concatenate([angles, angles], axis=1)
    keys = nn.rotate(np.tile(k, (1, len(angles), 1)), np.cos(angles), np.sin(angles))[0]
    return np.reshape(keys @ q * len(q) ** -0.5, (len(steps), len(steps)))
