"""Figures of mRoPE: every token's position in time, height and width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from ..config import TextConfig
from ..dims import Array, Bool, Int
from ..nn import rotary_frequencies
from .style import COLOURS, FAINT, INK, PAPER, Drawing, drawing, show_image

AXES = ("time", "height", "width")
_COLOURS, _MARKERS, _HATCHES = COLOURS[:3], ("o", "^", "s"), ("", "///", "...")
_SHADE, _TEXT, _MEDIA = "#eeeeee", "#dcedf8", "#f3c766"


class Run(NamedTuple):
    """Neighbouring tokens first <= index < end that are all text, or all of one media span."""

    first: int  # index of its first token
    end: int  # index after its last token
    media: bool  # True for placeholders, False for text


def runs_of(media: Bool[Array, "S"]) -> list[Run]:
    """The prompt cut into runs of text and spans of placeholders, in order."""
    runs, index = [], 0
    for is_media, same in groupby(media.tolist()):
        length = len(list(same))
        runs.append(Run(index, index + length, bool(is_media)))
        index += length
    return runs


def mrope_timeline(
    position_ids: Int[Array, "3 S"], media: Bool[Array, "S"], title: str = ""
) -> Drawing:
    """Position in time, height and width of every token of a prompt, against its index.

    ``media`` is True where a placeholder stands (``np.isin(ids, [image, video])``). Text is one
    line, as its three positions are equal. In a shaded span the three axes differ; after it text
    continues at the position in the ring. Look how far the line falls behind the dashed one (one
    position per token, as in ordinary RoPE): at the end the gap is the rope delta. (Qwen2-VL
    paper, section 2.1)
    """
    runs = runs_of(media)
    tokens, largest = len(media), int(np.max(position_ids, initial=0))
    delta = largest + 1 - tokens
    alt = f"{tokens} tokens, largest position {largest}, rope delta {delta}. "
    alt += " ".join(_said(run, position_ids) for run in runs)
    figure, axes = drawing(title or "Positions of a prompt", alt, size=(7.5, 4.2))
    top = max(largest * 1.3, 4)
    axes.set(xlim=(-0.5, max(tokens - 0.5, 0.5)), ylim=(-0.03 * top, top))
    axes.set_xlabel("index of the token in the prompt", fontsize=9)
    axes.set_ylabel("position", fontsize=9)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    axes.plot([0, tokens], [0, tokens], "--", color=FAINT, linewidth=1.2, label="one per token")
    for run in runs:
        _draw_run(axes, run, position_ids)
    for before, run in pairwise(runs):
        if before.media:
            _mark_restart(axes, before, run, position_ids)
    handles = {label: handle for handle, label in zip(*_legend(axes), strict=True)}
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=5, fontsize=8, frameon=False
    )
    return figure


def span_cells(
    positions: Int[Array, "3 S"], grid: Sequence[int], merge: int = 2, image: Any = None
) -> Drawing:
    """The tokens of one image or video span as cells: (time, height, width) in each.

    ``positions`` are those of an image or video of ``grid`` = (t, h, w) patches; a panel is a
    frame pair. ``image`` (pixels, for one panel) is drawn underneath. Look along a row: only
    width grows; down a column: only height; from panel to panel: only time.
    """
    t, h, w = grid[0], grid[1] // merge, grid[2] // merge
    cells = np.reshape(positions, (3, t, h, w))
    first, last = cells[:, 0, 0, 0].tolist(), cells[:, -1, -1, -1].tolist()
    alt = (
        f"{t} frame pair{'s' if t > 1 else ''} of {h} rows and {w} columns of tokens, with "
        f"(time, height, width) from ({_triple(first)}) at the top left of the first to "
        f"({_triple(last)}) at the bottom right of the last."
    )
    columns = min(t, max(1, 10 // w))
    rows = -(-t // columns)
    tall = 0.42 * h if image is None else min(7.2 * h / w, 6.5)
    high = rows * (tall + 0.3 * (t > 1)) + 0.4
    title = f"(time, height, width) of the {t * h * w} tokens of a span"
    figure, axes = drawing(
        title, alt, rows, columns, size=(7.5, min(max(high, 1.6), 9.0)), squeeze=False
    )
    for k, panel in enumerate(axes.flat):
        panel.set_axis_off()
        if k < t:
            _draw_cells(panel, cells[:, k], image if t == 1 else None)
            panel.set_title(f"frame pair {k}" if t > 1 else "", fontsize=9, color=INK)
    return figure


def mrope_sections(config: TextConfig, title: str = "") -> Drawing:
    """Which frequencies of a head rotate with which axis, and their wavelengths.

    One bar for each of the head_dim / 2 frequencies; its height is the wavelength, 2 pi / frequency
    in positions, on a logarithmic scale. The sections are consecutive: time has the fast ones,
    width the slow ones. (Su et al. 2021 for the frequencies; Qwen2-VL paper, section 2.1)
    """
    frequencies = rotary_frequencies(config.head_dim, config.rope_theta, np.float64)
    turns = 2 * np.pi / frequencies
    ends = np.cumsum(config.mrope_section).tolist()
    starts = [0, *ends[:-1]]
    parts = list(zip(AXES, starts, ends, strict=True))
    alt = f"Wavelengths of {len(turns)} frequencies, rising from {turns[0]:.3g}: " + ", ".join(
        f"{name} has frequencies {a} to {b - 1}, {turns[a]:.3g} to {turns[b - 1]:.3g} positions"
        for name, a, b in parts
        if b > a
    )
    figure, axes = drawing(
        title or "mRoPE sections: frequencies by axis", alt + ".", size=(7.5, 3.4)
    )
    for i, (name, a, b) in enumerate(parts):
        label = f"{name}: {a} to {b - 1}" if b > a else f"{name}: none"
        bars = axes.bar(np.arange(a, b), turns[a:b], width=0.9, color=_COLOURS[i], label=label)
        for bar in bars:
            bar.set(hatch=_HATCHES[i], edgecolor=PAPER, linewidth=0)
    axes.set(yscale="log", ylim=(1, turns[-1] * 2), xlim=(-0.7, len(turns) - 0.3))
    axes.set_xlabel(
        f"frequency, of {len(turns)} (head dimension {config.head_dim} / 2)", fontsize=9
    )
    axes.set_ylabel("positions per full turn", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    return figure


def positions_compared(
    rules: Mapping[str, Int[Array, "3 S"]], media: Bool[Array, "S"], title: str = ""
) -> Drawing:
    """The same prompt under several rules: how much of the line of positions each run takes.

    ``rules``: name -> position_ids of one prompt; ``media`` as in :func:`mrope_timeline`. Each rule
    has a row: text above, image and video spans below, with a stroke at the time of every frame
    pair. Look for text above a span (the two share positions: a collision, counted on the right),
    and for spans in which all strokes coincide.
    """
    runs = runs_of(media)
    clashes = {name: collisions(positions, media) for name, positions in rules.items()}
    alt = f"The same {len(media)} tokens under {len(rules)} rules. " + " ".join(
        f"{name}: {_times(positions, runs)}, the last token at {int(np.max(positions[:, -1]))}, "
        f"{clashes[name]} text tokens at positions of a span."
        for name, positions in rules.items()
    )
    figure, axes = drawing(title or "One prompt, several rules", alt, size=(7.5, 1.3 + len(rules)))
    end = max(int(np.max(p, initial=0)) for p in rules.values()) + 1
    axes.set(xlim=(-0.5, end + 0.5), ylim=(len(rules) - 0.05, -0.35))
    axes.set_xlabel("position", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    for y, (name, positions) in enumerate(rules.items()):
        axes.text(0, y - 0.05, name, fontsize=8, color=INK, weight="bold", va="bottom")
        many = clashes[name]
        said = f"{many} text token{'' if many == 1 else 's'} at a span's positions"
        axes.text(end, y - 0.05, said, fontsize=8, color=INK, ha="right", va="bottom")
        for run in runs:
            _lane(axes, y, run, positions[:, run.first : run.end])
    handles = [
        Patch(facecolor=_TEXT, edgecolor=INK, label="text: range of positions"),
        Patch(facecolor=_MEDIA, edgecolor=INK, label="image or video span: range over all axes"),
        Line2D([], [], color=COLOURS[0], linewidth=0, marker="|", markersize=9,
               markeredgewidth=2.5, label="time of a frame pair"),
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def collisions(position_ids: Int[Array, "3 S"], media: Bool[Array, "S"]) -> int:
    """How many text tokens have a position that a span before them has reached."""
    reached = np.maximum.accumulate(np.where(media, np.max(position_ids, axis=0), -1))
    return int(np.count_nonzero(~media & (position_ids[0] <= reached)))


def _said(run: Run, positions: Int[Array, "3 S"]) -> str:
    part = positions[:, run.first : run.end]
    if not run.media:
        return f"Text of {run.end - run.first} tokens at {part[0, 0]} to {part[0, -1]}."
    lows, highs = np.min(part, axis=1).tolist(), np.max(part, axis=1).tolist()
    ranges = zip(AXES, lows, highs, strict=True)
    return f"A span of {run.end - run.first} tokens: " + (
        ", ".join(f"{name} {low}" + (f" to {high}" * (high > low)) for name, low, high in ranges)
        + "."
    )


def _draw_run(axes: Axes, run: Run, positions: Int[Array, "3 S"]) -> None:
    index, part = np.arange(run.first, run.end), positions[:, run.first : run.end]
    if not run.media:
        axes.plot(index, part[0], "-D", color=INK, markersize=2.5, linewidth=1, label="text")
        return
    axes.axvspan(run.first - 0.5, run.end - 0.5, color=_SHADE, zorder=0)
    many = positions.shape[1] > 40
    for i, (name, size) in enumerate(
        zip(AXES, (3.6, 3.2, 2.8) if many else (10, 7, 4), strict=True)
    ):
        look: dict[str, Any] = dict(marker=_MARKERS[i], markersize=size, markeredgewidth=0)
        axes.plot(index, part[i], color=_COLOURS[i], label=name, linewidth=0.6, **look)
    middle, high = (run.first + run.end - 1) / 2, axes.get_ylim()[1]
    said = f"span of {run.end - run.first}"
    box: dict[str, Any] = dict(boxstyle="square,pad=0.2", facecolor=_SHADE, edgecolor="none")
    axes.text(middle, high * 0.98, said, ha="center", va="top", fontsize=8, color=INK, bbox=box)


def _mark_restart(axes: Axes, span: Run, run: Run, positions: Int[Array, "3 S"]) -> None:
    at = int(positions[0, run.first])
    axes.plot(run.first, at, "o", markersize=9, markerfacecolor="none", color=COLOURS[5])
    largest = int(np.max(positions[:, span.first : span.end]))
    said = f"text continues at {at}" + (f" = {largest} + 1" if at == largest + 1 else "")
    axes.annotate(
        said,
        (run.first, at),
        (-8, 9),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color=INK,
        bbox=dict(boxstyle="round,pad=0.15", facecolor=PAPER, edgecolor="none", alpha=0.8),
    )


def _legend(axes: Axes) -> tuple[list[Any], list[str]]:
    handles, labels = axes.get_legend_handles_labels()
    return handles, labels


def _draw_cells(axes: Axes, cells: Int[Array, "3 H W"], image: Any) -> None:
    h, w = cells.shape[1:]
    if image is not None:
        show_image(axes, image)
        high, wide = np.asarray(image).shape[:2]
    else:
        high, wide = h, w
        axes.set(xlim=(0, w), ylim=(h, 0))
    size = 9 if w <= 3 else 7
    box: dict[str, Any] = dict(
        boxstyle="round,pad=0.1", facecolor=PAPER, edgecolor="none", alpha=0.75
    )
    for i, j in np.ndindex(h, w):
        corner, side = (j * wide / w, i * high / h), (wide / w, high / h)
        axes.add_patch(Rectangle(corner, *side, fill=False, edgecolor="#777777", linewidth=0.7))
        if w <= 12 or (i in (0, h - 1) and j in (0, w - 1)):
            middle = (j + 0.5) * wide / w, (i + 0.5) * high / h
            time, row, column = cells[:, i, j].tolist()
            said = f"{time}\n{row}, {column}" if w > 8 else f"{time}, {row}, {column}"
            axes.text(*middle, said, ha="center", va="center", fontsize=size, color=INK, bbox=box)


def _triple(position: Sequence[int]) -> str:
    return ", ".join(map(str, position))


def _times(positions: Int[Array, "3 S"], runs: Sequence[Run]) -> str:
    spans = [np.unique(positions[0, r.first : r.end]).tolist() for r in runs if r.media]
    listed = [_triple(times[:12]) + (" ..." * (len(times) > 12)) for times in spans]
    return "times of the spans " + " and ".join(listed) if listed else "no spans"


def _lane(axes: Axes, y: int, run: Run, part: Int[Array, "3 S"]) -> None:
    low, high = int(np.min(part)), int(np.max(part)) + 1
    colour, line = (_MEDIA, 0.42) if run.media else (_TEXT, 0.2)
    box = Rectangle((low, y + line), high - low, 0.2, facecolor=colour, edgecolor=INK)
    box.set_linewidth(0.8)
    axes.add_patch(box)
    if high - low >= 0.08 * axes.get_xlim()[1]:
        said = f"{'span' if run.media else 'text'} of {part.shape[1]}"
        at = y + line + (0.33 if run.media else 0.1)
        axes.text(low + 0.2, at, said, fontsize=7, va="center", color=INK)
    if run.media:
        for time in np.unique(part[0]).tolist():
            axes.plot([time + 0.5] * 2, [y + 0.44, y + 0.6], color=COLOURS[0], linewidth=2.5)
