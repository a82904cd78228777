"""A video in time: the frames that are sampled, their pairs, and the positions they get."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..config import Config
from ..image import unpatchify
from ..position import span_positions
from ..video import MAX_FRAMES, MIN_FRAMES, Video, VideoSource, choose_frames, open_video
from .style import COLOURS, FAINT, INK, Drawing, drawing, show_image

ACROSS = 6.6  # inches of a strip that time has for itself
MOST_IMAGES = 32  # thumbnails in a row


class Row(NamedTuple):
    """One rate: the frames sampled, their times, and the temporal positions of their pairs."""

    fps: float  # sampling rate, frames per second
    indices: list[int]  # of the sampled frames
    starts: list[float]  # seconds, of every frame used
    lasts: float  # seconds from one frame of the video to the next
    grid_lasts: float  # mean seconds per frame pair
    times: list[int]  # the temporal position of every frame pair


def _row(clip: VideoSource, config: Config, fps: float, policy: str) -> Row:
    vision = config.vision
    indices, between = choose_frames(clip, fps, MIN_FRAMES, MAX_FRAMES, policy)
    rate = clip.rate or fps
    merge, step = vision.spatial_merge_size, vision.temporal_patch_size
    grid = (-(-len(indices) // step), merge, merge)
    newer = config.model_type == "qwen2_5_vl"
    pace = (step * between, vision.tokens_per_second) if newer else (1.0, 1.0)
    times = span_positions(0, grid, merge, *pace)[0].tolist()
    starts = [clip.begins(index, fps) for index in indices]
    return Row(fps, indices, starts, 1 / rate, step * between, times)


def video_strip(
    source: Any,
    config: Config,
    fps: Sequence[float] = (1.0, 2.0, 4.0),
    policy: str = "qwen-vl-utils",
    events: Mapping[str, float] | None = None,
) -> Drawing:
    """The frames of a video that are sampled at each of some rates, on an axis of seconds.

    ``source`` is what :func:`~tinyqwenvl.video.open_video` takes; a list of frames does not know
    its rate, so that ``fps`` is the rate at which they were taken, and each row has another length.
    A frame's left edge is its time in seconds. Brackets join the frames of one pair (two frames
    make one temporal patch); under each is its temporal position, counted from the start of the
    video in the prompt. ``events`` (name: seconds) are dashed lines across all rows.

    Look for: whether the same second gets the same position in every row (Qwen2.5-VL), or frame
    pairs are counted (Qwen2-VL).
    """
    clip = open_video(source)
    frames = list(clip.frames())
    rows = [_row(clip, config, float(rate), policy) for rate in fps]
    step = config.vision.temporal_patch_size
    end = max(row.starts[-1] + row.lasts for row in rows)
    inch = end / ACROSS  # in seconds
    gaps = [b - a for row in rows for a, b in zip(row.starts, row.starts[1:], strict=False)]
    wide = min(max(min([*gaps, end]), end / MOST_IMAGES), end / 6)
    high = min(wide * frames[0].height / frames[0].width, inch)
    wide = high * frames[0].width / frames[0].height
    below = 0.4 * inch
    size = (7.5, 0.75 + len(rows) * (high / inch + 0.4 + 0.62))
    alt = _strip_alt(rows, config)
    kind = "positions are times" if config.model_type == "qwen2_5_vl" else "positions are counts"
    title = f"The sampled frames: {kind}"
    figure, axes = drawing(title, alt, rows=len(rows), size=size)
    for row, ax in zip(rows, np.ravel(axes), strict=True):
        free = -1.0
        for index, start in zip(row.indices, row.starts, strict=True):
            if start < free - 1e-6:
                ax.plot([start, start], [0, high / 4], color=FAINT, linewidth=0.6)
                continue
            box = (start, start + wide, 0, high)
            ax.imshow(np.asarray(frames[index]), extent=box, zorder=2)
            corners = [start, start + wide, start + wide, start, start], [0, 0, high, high, 0]
            ax.plot(*corners, color=FAINT, linewidth=0.6, zorder=2)
            free = start + wide
        _brackets(ax, row, step, wide, inch)
        for what, second in (events or {}).items():
            ax.axvline(second, color=INK, linewidth=1, linestyle="--", zorder=3)
            if row is rows[0]:
                ax.annotate(what, (second, high), (3, 3), textcoords="offset points", fontsize=8)
        pairs = "1 pair" if len(row.times) == 1 else f"{len(row.times)} pairs"
        ax.set_title(
            f"{row.fps:g} per second: {len(row.indices)} frames, {pairs} of {row.grid_lasts:.3g} s",
            fontsize=9, color=INK, loc="left", pad=14 if events and row is rows[0] else 4,
        )  # fmt: skip
        ax.set(
            xlim=(-0.03 * inch, max(end, row.starts[-1] + wide) + 0.03 * inch),
            ylim=(-below, high),
            aspect="equal",
        )
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
    np.ravel(axes)[-1].set_xlabel("seconds of the video", fontsize=9)
    return figure


def _brackets(ax: Any, row: Row, step: int, wide: float, inch: float) -> None:
    """A bracket under each frame pair, with its time if it fits."""
    firsts = row.starts[::step]
    lasts = [*row.starts[step - 1 : (len(firsts) - 1) * step : step], row.starts[-1]]
    y, tip, inset, free = -0.12 * inch, -0.04 * inch, 0.03 * inch, -1.0
    for grid, (left, last, time) in enumerate(zip(firsts, lasts, row.times, strict=True)):
        right = min([last + wide, *firsts[grid + 1 : grid + 2]])
        colour = COLOURS[grid % 2 * 5]
        xs = [left + inset, left + inset, right - inset, right - inset]
        ax.plot(xs, [tip, y, y, tip], color=colour)
        if left >= free - 1e-6:
            ax.text((left + right) / 2, -0.17 * inch, f"time {time}", color=colour, fontsize=8,
                    ha="center", va="top", fontweight="bold")  # fmt: skip
            free = left + 0.5 * inch


def _strip_alt(rows: Sequence[Row], config: Config) -> str:
    each = [
        f"{row.fps:g} per second: {len(row.indices)} frames in {len(row.times)} pairs at "
        f"times {_some(row.times)}"
        for row in rows
    ]
    name = "Qwen2.5-VL" if config.model_type == "qwen2_5_vl" else "Qwen2-VL"
    return (
        f"The frames of a video on an axis of seconds, positions as in {name}. {'; '.join(each)}."
    )


def _some(numbers: Sequence[int]) -> str:
    if len(numbers) > 10:
        numbers = [*numbers[:8], "...", numbers[-1]]  # type: ignore[list-item]
    return ", ".join(map(str, numbers))


# ------------------------------------------------------------------ positions against seconds


Rule = tuple[Config, Callable[..., Any]]
"""A config, and a function instead of :func:`~tinyqwenvl.position.rope_index`."""


def temporal_positions(
    rules: Mapping[str, Rule],
    fps: Sequence[float] = (1.0, 2.0, 4.0, 8.0),
    seconds: float = 8.0,
) -> Drawing:
    """Temporal positions against the second at which a frame pair begins, for each of some rules.

    ``rules`` are names -> (config, a function like :func:`~tinyqwenvl.position.rope_index`), one
    panel each; ``fps`` are the rates of the frames sampled, one line each; ``seconds`` is the
    length of the video. Look for: one line for all rates means that a position is a time; a fan
    means that it is a count.
    """
    found = {name: [_line(rule, rate, seconds) for rate in fps] for name, rule in rules.items()}
    same = {
        name: all(_agree(line, other) for line in lines for other in lines)
        for name, lines in found.items()
    }
    alt = "Temporal positions against seconds, at " + ", ".join(f"{r:g}" for r in fps)
    alt += " frames per second. " + "; ".join(
        f"{name}: {'all rates lie on one line' if same[name] else 'rates differ'}, the last pairs "
        f"are at {', '.join(str(int(line[1][-1])) for line in lines)}"
        for name, lines in found.items()
    )
    figure, axes = drawing(
        "Temporal positions against seconds", f"{alt}.", columns=len(rules), size=(7.5, 3.0),
        sharex=True, sharey=True, squeeze=False,
    )  # fmt: skip
    markers = "osD^vP*X"
    for ax, (name, lines) in zip(axes[0], found.items(), strict=True):
        for i, (rate, (at, time)) in enumerate(zip(fps, lines, strict=True)):
            ax.plot(at, time, marker=markers[i % 8], markersize=9 - 2 * min(i, 3), alpha=0.85,
                    color=COLOURS[i % 8], linewidth=1, label=f"{rate:g} per second")  # fmt: skip
        ax.set_title(name, fontsize=9, color=INK)
        ax.set_xlabel("start of the frame pair (s)", fontsize=9)
    axes[0, 0].set_ylabel("temporal position", fontsize=9)
    axes[0, 0].yaxis.get_major_locator().set_params(integer=True)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center",
                  ncols=4, title="frames", title_fontsize=8, fontsize=8, frameon=False)  # fmt: skip
    return figure


def _line(rule: Rule, fps: float, seconds: float) -> tuple[Any, Any]:
    """(seconds, positions) of all frame pairs of a video."""
    config, index = rule
    merge, step = config.vision.spatial_merge_size, config.vision.temporal_patch_size
    count = max(int(seconds * fps) // step, 1)
    ids = np.full(count, config.video_token_id)
    grids = np.array([[count, merge, merge]])
    positions, _ = index(ids, config, None, grids, [step / fps])
    return np.arange(count) * step / fps, positions[0]


def _agree(line: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    """Whether two lines have the same position wherever both have a frame pair."""
    _, here, there = np.intersect1d(line[0], other[0], return_indices=True)
    return bool(np.array_equal(line[1][here], other[1][there]))


# ------------------------------------------------------------------ the frames of the patches


def frame_pairs(video: Video, config: Config) -> Drawing:
    """The pixels of a video that reach the vision encoder: both frames of each pair.

    ``video`` is what :func:`~tinyqwenvl.video.read_video` returns. Columns are frame pairs,
    rows the frames of a pair: the last of an odd number of frames is repeated, and so is a still
    image. At most eight pairs are drawn.
    """
    vision, processor = config.vision, config.processor
    x = unpatchify(video.patches, video.grid, vision.patch_size, vision.spatial_merge_size,
                   vision.temporal_patch_size)  # fmt: skip
    x = np.clip(x * np.asarray(processor.image_std) + np.asarray(processor.image_mean), 0, 1)
    step, t = vision.temporal_patch_size, video.grid[0]
    pairs = np.reshape(x, (t, step, *x.shape[1:]))
    shown = min(t, 8)
    twice = [k for k in range(t) if all(np.array_equal(pairs[k, 0], frame) for frame in pairs[k])]
    alt = f"{shown} of {t} frame pairs" if shown < t else f"{t} frame pair{'s' * (t > 1)}"
    alt += f" of {step} frames each, every pair {video.seconds:.3g} s long; "
    alt += f"the frames of pair {_some(twice)} are equal." if twice else "frames differ in each."
    each = ACROSS / max(shown, 4)
    high = each * x.shape[1] / x.shape[2]
    figure, axes = drawing(
        f"{step} frames per temporal patch", alt, step, shown, squeeze=False,
        size=(0.9 + shown * each, 0.9 + step * min(high, 2.2)),
    )  # fmt: skip
    for k in range(shown):
        for f in range(step):
            title = f"pair {k}: {k * video.seconds:.3g} s" if f == 0 else ""
            show_image(axes[f, k], pairs[k, f], title)
    for f in range(step):
        axes[f, 0].text(-0.08, 0.5, f"frame {f}", transform=axes[f, 0].transAxes, rotation=90,
                        ha="right", va="center", fontsize=8, color=INK)  # fmt: skip
    return figure
