"""Activation functions and norms compared, and how far a change of one patch propagates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..dims import Array, Float, Int
from ..vision import patch_positions
from .style import COLOURS, FAINT, INK, SEQUENTIAL, Drawing, drawing

DASHES = ("-", "--", ":", "-.")


def curves(
    functions: Mapping[str, Callable[[Any], Any]], low: float = -4.0, high: float = 4.0
) -> Drawing:
    """Functions of a scalar, such as activations, and the difference of each from the first.

    ``functions`` are names -> functions of an array; each is drawn from ``low`` to ``high``.
    """
    x = np.linspace(low, high, 401)
    values = {name: np.asarray(function(x)) for name, function in functions.items()}
    first, *others = values
    apart = {name: values[name] - values[first] for name in others}
    worst = {name: int(np.argmax(np.abs(off))) for name, off in apart.items()}
    alt = f"{', '.join(values)} from {low:g} to {high:g}. " + "; ".join(
        f"{name} differs from {first} by at most {abs(apart[name][i]):.2g}, at {x[i]:.2g}"
        for name, i in worst.items()
    )
    figure, axes = drawing(
        "Activations" if others else first, f"{alt.rstrip()}" + "." * bool(others),
        columns=1 + bool(others), size=(7.5, 3.2), squeeze=False,
    )  # fmt: skip
    for i, (name, y) in enumerate(values.items()):
        style: dict[str, Any] = {"color": COLOURS[(0, 5, 2, 3)[i % 4]], "label": name}
        style["linestyle"] = DASHES[i % 4]
        axes[0, 0].plot(x, y, **style)
        if i:
            axes[0, 1].plot(x, apart[name], **style)
    for ax in axes[0]:
        ax.axhline(0, color=FAINT, linewidth=0.7, zorder=0)
        ax.set_xlabel("x", fontsize=9)
    axes[0, 0].set_ylabel("f(x)", fontsize=9)
    axes[0, 0].legend(fontsize=8, frameon=False)
    if others:
        axes[0, 1].set_title(f"minus {first}", fontsize=9, color=INK)
        axes[0, 1].legend(fontsize=8, frameon=False)
    return figure


def vectors_as_bars(rows: Mapping[str, Float[Array, "D"]]) -> Drawing:
    """A vector before and after norms, one panel each: its values as bars, its mean as a line.

    ``rows`` are names -> vectors. The mean and the root mean square stand under each name. Look
    for: LayerNorm subtracts the mean, RMSNorm keeps it.
    """
    measured = {name: (float(np.mean(v)), _rms(v)) for name, v in rows.items()}
    alt = "; ".join(f"{n}: mean {m:.2f}, rms {r:.2f}" for n, (m, r) in measured.items())
    figure, axes = drawing(
        "One vector, before and after normalisation", f"Bars. {alt}.", columns=len(rows),
        size=(7.5, 3.0), sharey=True, squeeze=False,
    )  # fmt: skip
    for i, (ax, (name, v)) in enumerate(zip(axes[0], rows.items(), strict=True)):
        mean, rms = measured[name]
        ax.bar(range(len(v)), v, color=COLOURS[(4, 0, 1, 3)[i % 4]])
        ax.axhline(0, color=INK, linewidth=0.7)
        ax.axhline(mean, color=INK, linewidth=1.2, linestyle="--")
        ax.set_title(f"{name}\nmean {mean:.2f}, rms {rms:.2f}", fontsize=9, color=INK)
        ax.set_xlabel("dimension", fontsize=9)
    axes[0, 0].set_ylabel("value (dashed: the mean)", fontsize=9)
    return figure


def _rms(v: Any) -> float:
    return float(np.sqrt(np.mean(np.square(v, dtype=np.float64))))


def change_propagation(
    changes: Mapping[str, Sequence[Float[Array, "N"]]],
    grid_thw: Int[Array, "I 3"],
    merge: int = 2,
    window: int | None = None,
) -> Drawing:
    """How far a change of one patch propagates, block by block, for some models: maps of patches.

    ``changes`` are names -> for each block how much every patch has changed, [N] in merge order (as
    patches come); one row of maps each, of the first frame of the first image. A patch that has
    changed at all is coloured, by the logarithm of how much; one that has not is white. ``window``
    draws lines every so many patches. Look for changes that stop at the edge of a window.
    """
    _, h, w = np.asarray(grid_thw)[0].tolist()
    place = patch_positions(np.array([[1, h, w]]), merge)
    deep = max(map(len, changes.values()))
    counts = {
        name: [int(np.count_nonzero(block[: h * w])) for block in blocks]
        for name, blocks in changes.items()
    }
    alt = f"Of {h * w} patches, changed after each block: " + "; ".join(
        f"{name}: {', '.join(map(str, row))}" for name, row in counts.items()
    )
    tall = 6.4 / deep * h / w + 0.3
    figure, axes = drawing(
        "One patch was changed: how far the change propagates", f"{alt}.", len(changes), deep,
        (7.5, 0.6 + len(changes) * tall), squeeze=False,
    )  # fmt: skip
    logs = [np.log10(b[b > 0]) for blocks in changes.values() for b in blocks if np.any(b > 0)]
    low, high = (float(np.min(np.concatenate(logs))), float(np.max(np.concatenate(logs)))) if logs \
        else (0.0, 1.0)  # fmt: skip
    for axes_row, (name, blocks) in zip(axes, changes.items(), strict=True):
        for ax in axes_row[len(blocks) :]:
            ax.set_visible(False)
        for i, (ax, block) in enumerate(zip(axes_row, blocks, strict=False)):
            shown = np.full((h, w), np.nan)
            with np.errstate(divide="ignore"):
                values = np.where(block[: h * w] > 0, np.log10(block[: h * w]), np.nan)
            shown[place[:, 0], place[:, 1]] = values
            image = ax.imshow(shown, cmap=SEQUENTIAL, vmin=low, vmax=high, extent=(0, w, h, 0))
            for line in range(window or h + w, max(h, w), window or h + w):
                if line < w:
                    ax.axvline(line, color=INK, linewidth=0.6)
                if line < h:
                    ax.axhline(line, color=INK, linewidth=0.6)
            ax.set(xticks=[], yticks=[], xlim=(0, w), ylim=(h, 0))
            ax.spines[["top", "right"]].set_visible(True)
            ax.set_title(f"block {i}: {counts[name][i]}", fontsize=8, color=INK)
        axes_row[0].set_ylabel(name, fontsize=9)
    bar = figure.colorbar(image, ax=axes.ravel().tolist(), aspect=30, pad=0.02)
    bar.set_label("log10 of the largest change", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure
