"""The cost of an image: FLOPs and bytes against its size, computed without weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..config import Config
from ..shapes import Walk, walk
from .style import COLOURS, INK, Drawing, drawing

Size = tuple[int, int]
"""(width, height) in pixels."""

STAGES = ("encoder: attention", "encoder: the rest", "decoder: attention", "decoder: the rest")
HATCHES = ("////", "", "\\\\\\\\", "")
FILLS = (COLOURS[0], COLOURS[4], COLOURS[5], COLOURS[1])
BRAIN = 2  # bytes of a bfloat16


def stage_flops(found: Walk) -> dict[str, int]:
    """FLOPs to the first new token, by :data:`STAGES`; the rest of the decoder has the lm_head.

    "Attention" is what grows with the number of keys: scores, and the mean of the values. Its
    projections belong to the rest.
    """
    attention = {"visual.": 0, "model.": 0}
    for row in found.rows:
        for prefix in attention:
            if row.name.startswith(prefix) and row.name.endswith(".context"):
                attention[prefix] += row.flops
    vision, decoder = found.flops["vision"], found.flops["decoder"] + found.flops["lm_head"]
    encoder, layers = attention["visual."], attention["model."]
    parts = (encoder, vision - encoder, layers, decoder - layers)
    return dict(zip(STAGES, parts, strict=True))


def flops_by_resolution(
    configs: Mapping[str, Config],
    sizes: Sequence[Size],
    text_tokens: int = 49,
    max_pixels: int | None = None,
) -> Drawing:
    """FLOPs of a prompt with one image against the image's size, split by stage: stacked bars.

    ``configs`` are names -> configs, one panel each; ``sizes`` are (width, height) in pixels, read
    near their own size unless ``max_pixels`` shrinks them. One multiply-add is 2 FLOPs; matrix
    products and attention are counted (:mod:`~tinyqwenvl.shapes`). Over each bar is the share
    of the vision encoder. Look for: what attention of the vision encoder costs in large images.
    """
    walks = _walks(configs, sizes, text_tokens, max_pixels)
    table = {n: [stage_flops(found) for found in row] for n, row in walks.items()}
    scale, unit = _unit(max(sum(t.values()) for row in table.values() for t in row), "FLOPs")
    figure, axes = drawing(
        "FLOPs to the first token, by image size",
        _flops_alt(table, sizes), columns=len(configs), size=(7.5, 3.9), sharey=True, squeeze=False,
    )  # fmt: skip
    for ax, (name, row) in zip(axes[0], table.items(), strict=True):
        base = np.zeros(len(sizes))
        for stage, colour, hatch in zip(STAGES, FILLS, HATCHES, strict=True):
            heights = np.array([flops[stage] for flops in row]) / scale
            ax.bar(range(len(sizes)), heights, 0.8, base, color=colour, hatch=hatch, label=stage,
                   edgecolor="white", linewidth=0.4)  # fmt: skip
            base += heights
        for i, flops in enumerate(row):
            ax.text(
                i, base[i], f"{_encoder_share(flops):.0%}", ha="center", va="bottom", fontsize=8
            )
        ax.set_title(f"{name} (%: the vision encoder's share)", fontsize=9, color=INK)
        _sizes_below(ax, sizes)
    return _explained(figure, axes[0, 0], unit)


def attention_by_resolution(
    configs: Mapping[str, Config],
    sizes: Sequence[Size],
    max_pixels: int | None = None,
) -> Drawing:
    """FLOPs of the vision encoder's attention (scores and means of values) against the number of
    patches.

    ``configs`` are names -> configs, one line each; both axes are logarithmic, so a slope of 2 is
    "twice the patches, four times the work" and a slope of 1 is work in proportion. The slope
    between the two largest images is written at each line's end. Look for: windows turn 2 into 1.
    """
    walks = _walks(configs, sizes, 49, max_pixels)
    lines = {}
    for name, row in walks.items():
        patches = np.array([sum(p["patches"] for p in found.images) for found in row])
        flops = np.array([stage_flops(found)[STAGES[0]] for found in row])
        order = np.argsort(patches, kind="stable")
        lines[name] = patches[order], flops[order]
    slopes = {name: _slope(*line) for name, line in lines.items()}
    alt = "Attention FLOPs of the vision encoder against the number of patches. " + "; ".join(
        f"{name}: {x[0]:,} patches take {y[0]:.2g}, {x[-1]:,} take {y[-1]:.2g}"
        + (f", slope {slopes[name]:.1f}" if np.isfinite(slopes[name]) else "")
        for name, (x, y) in lines.items()
    )
    figure, ax = drawing("Attention in the vision encoder", f"{alt}.", size=(7.5, 3.6))
    for i, (name, (x, y)) in enumerate(lines.items()):
        ax.plot(x, y, marker="osD^vP*X"[i % 8], color=COLOURS[i % 8], label=name)
        if np.isfinite(slopes[name]):
            ax.annotate(f"slope {slopes[name]:.1f}", (x[-1], y[-1]), (6, 0), fontsize=8,
                        textcoords="offset points", va="center", annotation_clip=False)  # fmt: skip
    ax.set(xscale="log", yscale="log")
    ax.margins(x=0.14)
    ax.set_xlabel("patches of the image", fontsize=9)
    ax.set_ylabel("FLOPs", fontsize=9)
    ax.legend(fontsize=8, frameon=False)
    return figure


def bytes_by_resolution(
    configs: Mapping[str, Config],
    sizes: Sequence[Size],
    text_tokens: int = 49,
    max_pixels: int | None = None,
) -> Drawing:
    """Bytes, in bfloat16, of the weights and of the prompt's KV cache, against the image's size.

    ``configs`` and ``sizes`` as in :func:`flops_by_resolution`. The number over a bar is the
    prompt's tokens. Look for: weights stay, the cache grows with the pixels.
    """
    walks = _walks(configs, sizes, text_tokens, max_pixels)
    weights = {n: BRAIN * row[0].parameters["total"] for n, row in walks.items()}
    caches = {n: [BRAIN * found.cache["prompt"] for found in row] for n, row in walks.items()}
    scale, unit = _unit(max(weights[n] + max(caches[n]) for n in walks), "bytes")
    alt = "Stacked bars of bytes in bfloat16. " + "; ".join(
        f"{n}: weights {_short(weights[n])}bytes, KV cache {_short(c[0])}bytes at "
        f"{_by(sizes[0])} and "
        f"{_short(c[-1])}bytes at {_by(sizes[-1])}"
        for n, c in caches.items()
    )
    figure, axes = drawing(
        "Memory of weights and KV cache, by image size", f"{alt}.",
        columns=len(configs), size=(7.5, 3.6), sharey=True, squeeze=False,
    )  # fmt: skip
    for ax, (name, row) in zip(axes[0], walks.items(), strict=True):
        base, cache = weights[name] / scale, np.array(caches[name]) / scale
        at = range(len(sizes))
        ax.bar(at, [base] * len(sizes), 0.8, color=COLOURS[4], label="weights")
        ax.bar(at, cache, 0.8, base, color=COLOURS[1], hatch="////", label="KV cache of the prompt",
               edgecolor="white", linewidth=0.4)  # fmt: skip
        for i, found in enumerate(row):
            ax.text(i, base + cache[i], f"{found.tokens['total']:,}", ha="center", va="bottom",
                    fontsize=7)  # fmt: skip
        ax.set_title(f"{name} (numbers: tokens)", fontsize=9, color=INK)
        _sizes_below(ax, sizes)
    return _explained(figure, axes[0, 0], unit)


# ------------------------------------------------------------------ helpers


def _walks(
    configs: Mapping[str, Config], sizes: Sequence[Size], text: int, most: int | None
) -> dict[str, list[Walk]]:
    return {
        name: [walk(config, [size], text, max_pixels=most) for size in sizes]
        for name, config in configs.items()
    }


def _flops_alt(table: Mapping[str, list[dict[str, int]]], sizes: Sequence[Size]) -> str:
    parts = [
        f"{name}: {_short(sum(row[i].values()))}FLOPs at {_by(sizes[i])}, "
        f"{_encoder_share(row[i]):.0%} of it in the vision encoder"
        for name, row in table.items()
        for i in dict.fromkeys((0, len(sizes) - 1))
    ]
    return f"Stacked bars by stage. {'; '.join(parts)}."


def _encoder_share(flops: Mapping[str, int]) -> float:
    return (flops[STAGES[0]] + flops[STAGES[1]]) / sum(flops.values())


def _slope(x: Any, y: Any) -> float:
    """The slope between the last two points on logarithmic axes; NaN if there are none."""
    if len(x) < 2 or x[-1] == x[-2]:
        return float("nan")
    return float(np.log(y[-1] / y[-2]) / np.log(x[-1] / x[-2]))


def _explained(figure: Drawing, first: Any, unit: str) -> Drawing:
    """The unit beside the first panel, and below all panels what its bars stand for."""
    first.set_ylabel(unit, fontsize=9)
    handles, labels = first.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8,
                  frameon=False)  # fmt: skip
    return figure


def _sizes_below(ax: Any, sizes: Sequence[Size]) -> None:
    ax.set_xticks(range(len(sizes)), [_by(size) for size in sizes], fontsize=7, rotation=25)
    ax.set_xlabel("image (pixels, width x height)", fontsize=9)


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


PREFIXES = ((1e15, "peta"), (1e12, "tera"), (1e9, "giga"), (1e6, "mega"), (1e3, "kilo"), (1, ""))


def _unit(largest: float, what: str) -> tuple[float, str]:
    """A power of a thousand to divide by, and what the quotient is called."""
    scale, prefix = next((p for p in PREFIXES if largest >= p[0]), PREFIXES[-1])
    return scale, f"{prefix}{what} ({scale:.0e})".replace("e+0", "e").replace(
        "e+", "e"
    ) if prefix else what


def _short(number: float) -> str:
    """12,345,678 -> "12.3 mega"."""
    scale, prefix = next((p for p in PREFIXES if number >= p[0]), PREFIXES[-1])
    return f"{number / scale:.3g} {prefix}"
