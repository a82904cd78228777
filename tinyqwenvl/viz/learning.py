"""Figures of training: the loss in a log, measured skills, and what a layer's outputs span."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.ticker import MaxNLocator

from ..dims import Array, Float, Int
from .style import COLOURS, FAINT, INK, PAPER, Axes, Drawing, drawing

_MARKERS = ("o", "s", "^", "D", "v", "P")


def learning_curves(
    lines: Sequence[Mapping[str, Any]],
    smooth: int = 9,
    columns: int = 4,
    title: str = "Loss of every skill",
) -> Drawing:
    """The loss of every skill against images seen, one small panel each, both axes logarithmic.

    ``lines`` are those of a training log: {"images": ..., "loss": {skill: mean loss of an answer
    token}, "hint": ...}; older logs say "pictures". A skill may begin late. Faint: as logged;
    strong: the median of ``smooth`` lines. All panels have the same axes. Look for when each
    falls, and for skills that wait for others.
    """
    names = list(dict.fromkeys(skill for line in lines for skill in line["loss"]))
    curves = {name: _curve(lines, name) for name in names}
    if hints := [(_images(line), line["hint"]) for line in lines if line.get("hint")]:
        curves["hint (not in the model)"] = np.array(hints, float)
    ends = {name: float(np.median(curve[-smooth:, 1])) for name, curve in curves.items()}
    best, worst = min(ends, key=lambda n: ends[n]), max(ends, key=lambda n: ends[n])
    most = max(_images(line) for line in lines)
    alt = (
        f"Loss of {len(curves)} curves over {most:,} images. At the end the lowest is {best} "
        f"({ends[best]:.1g}) and the highest {worst} ({ends[worst]:.1g})."
    )
    rows = -(-len(curves) // columns)
    figure, axes = drawing(
        title, alt, rows, columns, size=(7.5, 1.35 * rows + 0.8), sharex=True, sharey=True,
        squeeze=False,
    )  # fmt: skip
    for each, (name, curve) in zip(np.ravel(axes), curves.items(), strict=False):
        each.plot(*curve.T, color=FAINT, linewidth=0.8)
        each.plot(curve[:, 0], _medians(curve[:, 1], smooth), color=COLOURS[0], linewidth=1.6)
        each.set_title(name, fontsize=8.5, color=INK)
        each.set_xscale("log"), each.set_yscale("log")
        each.minorticks_off()
        each.grid(color=FAINT, linewidth=0.4, alpha=0.6)
    for each in np.ravel(axes)[len(curves) :]:
        each.set_axis_off()
    for each in np.ravel(axes)[max(0, len(curves) - columns) : len(curves)]:
        each.xaxis.set_tick_params(labelbottom=True)  # the lowest panel of each column
    figure.supxlabel("images seen", fontsize=9, color=INK)
    figure.supylabel("loss of an answer token (nats)", fontsize=9, color=INK)
    return figure


def _images(line: Mapping[str, Any]) -> Any:
    """Images seen when a line was logged."""
    return line["images"] if "images" in line else line["pictures"]


def _curve(lines: Sequence[Mapping[str, Any]], name: str) -> Any:
    """[points, 2]: images and loss; a loss of nothing is drawn at 1e-5, the log's last digit."""
    points = [(_images(x), max(x["loss"][name], 1e-5)) for x in lines if name in x["loss"]]
    return np.array(points, float)


def _medians(values: Any, smooth: int) -> Any:
    reach = smooth // 2
    around = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return np.array([np.median(some) for some in around])


def skills(
    figures: Mapping[str, Mapping[str, float]],
    title: str = "Measured skills",
    label: str = "correct answers or mean IoU of boxes, %",
    chance: Mapping[str, float] | None = None,
) -> Drawing:
    """Measured skills {column: {skill: share from 0 to 1}}: rows are skills, markers columns.

    Markers differ in form as well as in colour. Look for the distance between those of one row:
    what is lost when scenes are of another kind. ``chance`` {skill: share} is marked by a stroke:
    the score of guessing. An axis that does not begin at 0 says so.
    """
    names = list(dict.fromkeys(skill for column in figures.values() for skill in column))
    lowest = min(
        (value, skill, c) for c, column in figures.items() for skill, value in column.items()
    )
    alt = (
        f"{len(names)} skills under {len(figures)} conditions ({', '.join(figures)}). The lowest "
        f"marker is {lowest[1]} in {lowest[2]}: {lowest[0]:.0%}."
    )
    figure, axes = drawing(title, alt, size=(7.5, 0.3 * len(names) + 1.5))
    for row in range(len(names)):
        axes.axhline(row, color=FAINT, linewidth=0.6, zorder=0)
    for number, (name, column) in enumerate(figures.items()):
        places = [names.index(skill) for skill in column]
        axes.plot(
            [100 * value for value in column.values()], places, _MARKERS[number % len(_MARKERS)],
            color=COLOURS[(0, 1, 3, 7)[number % 4]], markersize=7, alpha=0.85, label=name,
        )  # fmt: skip
    axes.set_yticks(range(len(names)), [n.replace("_", " ") for n in names], fontsize=8.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    for skill, share in (chance or {}).items():
        place = names.index(skill)
        axes.plot([100 * share] * 2, [place - 0.35, place + 0.35], color=INK, linewidth=2,
                  label="chance level" if skill == next(iter(chance or {})) else None)  # fmt: skip
    axes.set_xlim(right=101)
    if (begins := axes.get_xlim()[0]) > 1:
        label = f"{label} (axis cut: begins at {begins:.0f})"
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel(label, fontsize=9, color=INK)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=8, frameon=False)
    return figure


def branch_attention_mask(
    branch: Int[Array, "S"],
    words: Sequence[str] = (),
    title: str = "Attention mask of many questions about one image",
) -> Drawing:
    """The attention mask of a row with a trunk (branch 0) and branches 1, 2, ... after it.

    A query (row) attends to the keys (columns) before it in the trunk or in its own branch.
    Allowed squares carry the number of the query's branch. Look for the columns of
    the trunk, which all branches share, and for the white between two branches.
    """
    mask = branch_mask(branch)
    count, most = len(branch), int(np.max(branch, initial=0))
    alt = (
        f"A mask of {count} x {count} tokens: a trunk of {int(np.sum(branch == 0))} and {most} "
        f"branches. {int(mask.sum())} of {count * (count + 1) // 2} squares on or below the "
        "diagonal are allowed; none lies between two branches."
    )
    colours = [PAPER, *(COLOURS[(0, 1, 3, 4, 6)[n % 5]] for n in range(most + 1))]
    side = float(np.clip(0.26 * count + 1.6, 3.2, 7.0))
    figure, axes = drawing(title, alt, size=(min(7.5, side + 0.8), side))
    axes.imshow(
        np.where(mask, branch[:, None] + 1, 0), ListedColormap(colours), vmin=0, vmax=most + 1
    )
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=FAINT, linewidth=0.4)
    axes.tick_params(which="minor", length=0)
    _name(axes, words, count)
    if count <= 40:
        for row, column in np.argwhere(mask):
            _number(axes, row, column, int(branch[row]))
    axes.set_ylabel("query position", fontsize=9, color=INK)
    axes.set_xlabel("key position", fontsize=9, color=INK)
    return figure


def branch_mask(branch: Int[Array, "S"]) -> Any:
    """[S, S], true where a query (row) attends to a key: before it, in trunk or branch."""
    same = branch[:, None] == branch[None, :]
    return np.tril(same | (branch == 0)[None, :])


def _name(axes: Axes, words: Sequence[str], count: int) -> None:
    if words:
        axes.set_xticks(range(count), words, rotation=90, fontsize=7.5)
        axes.set_yticks(range(count), words, fontsize=7.5)


def _number(axes: Axes, row: int, column: int, number: int) -> None:
    dark = number % 5 == 0
    axes.text(
        column, row, str(number), ha="center", va="center", fontsize=7,
        color="white" if dark else "black",
    )  # fmt: skip


def spectrum(
    outputs: Mapping[str, Float[Array, "N D"]],
    title: str = "Spectrum of the outputs",
    largest: int = 60,
) -> Drawing:
    """Share of the power of outputs [N, D] in each of their principal components, largest first.

    A steep line: nearly all outputs carry the same information (the mean colour of a patch, say).
    A flat one: the outputs differ from each other. In percent, on a logarithmic axis; all shares
    of a line, of which the ``largest`` are drawn, add up to 100.
    """
    found = {name: 100 * component_shares(array) for name, array in outputs.items()}
    summary = "; ".join(f"{name}: the first has {shares[0]:.0f}%" for name, shares in found.items())
    alt = f"Falling lines of the shares of the principal components. {summary}."
    figure, axes = drawing(title, alt, size=(7.0, 3.8))
    for number, (name, shares) in enumerate(found.items()):
        colour, line = COLOURS[(0, 1, 3, 7)[number % 4]], ("-", "--", "-.", ":")[number % 4]
        places = np.arange(1, len(shares) + 1)[:largest]
        axes.plot(places, shares[:largest], line, color=colour, label=name, linewidth=2)
    axes.set_yscale("log")
    least = min(shares[:largest].min() for shares in found.values())
    axes.set_ylim(bottom=max(least / 2, 1e-6))  # what lies under that is rounding
    shown = min(largest, max(map(len, found.values())))
    axes.set_xlabel(
        f"principal component, largest first (the first {shown})", fontsize=9, color=INK
    )
    axes.set_ylabel("share of the power, % (log scale)", fontsize=9, color=INK)
    axes.legend(fontsize=8.5, frameon=False)
    return figure


def component_shares(outputs: Float[Array, "N D"]) -> Any:
    """[D] shares of the second moment in its principal components, largest first; they sum to 1."""
    powers = np.linalg.svd(np.asarray(outputs, np.float64), compute_uv=False) ** 2
    return powers / powers.sum()
