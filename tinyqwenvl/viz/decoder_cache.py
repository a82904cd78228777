"""The KV cache: grouped-query heads, the keys each step computes, and its growth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from ..config import TextConfig
from ..dims import Array, Float
from .style import COLOURS, FAINT, INK, PAPER, Drawing, drawing


def grouped_query_heads(query_heads: int, key_heads: int) -> Drawing:
    """Which query heads share which key/value head: grouped-query attention (Ainslie et al. 2023).

    Query head a uses key/value head a // (query_heads / key_heads): neighbours share.
    """
    group = query_heads // key_heads
    alt = (
        f"{query_heads} query heads above {key_heads} key/value heads, joined by lines: query "
        f"heads 0 to {group - 1} share key/value head 0"
        + (f", the last {group} share head {key_heads - 1}." if key_heads > 1 else ".")
    )
    size = (float(np.clip(0.5 * query_heads + 1, 4.5, 7.5)), 1.9)
    title = f"{query_heads} query heads, {key_heads} key/value heads"
    figure, axes = drawing(title, alt, size=size)
    axes.set_axis_off()
    middle = (np.arange(key_heads) + 0.5) * group - 0.5
    for head in range(query_heads):
        owner = head // group
        axes.plot([head, middle[owner]], [1, 0], color=FAINT, lw=1.5, zorder=1)
    small = query_heads > 16
    for y, xs, name in ((1, np.arange(query_heads), "q"), (0, middle, "k, v")):
        for number, x in enumerate(xs):
            owner = number // group if y else number
            box = {"boxstyle": "round", "fc": PAPER, "ec": COLOURS[owner % 7], "lw": 2}
            text = f"{number}" if small else f"{name} {number}"
            axes.text(x, y, text, ha="center", va="center", fontsize=7, bbox=box, zorder=2)
    axes.set_xlim(-0.8, query_heads - 0.2)
    axes.set_ylim(-0.4, 1.4)
    return figure


def steps_computed(prompt: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """The state of each token's key in each step: [steps, tokens], with and without a cache.

    0: not there yet, 1: found in the cache, 2: computed. Step 0 is the prompt in one go; each of
    the ``new`` steps after it brings one token.
    """
    token = np.arange(prompt + new)
    there = prompt + np.arange(new + 1)[:, None]
    without = np.where(token < there, 2, 0)
    before = np.where(there == prompt, 0, there - 1)
    return np.where(token < before, 1, without), without


def keys_computed(prompt: int, new: int) -> Drawing:
    """Which tokens' keys and values each step computes, with a cache and without one.

    A row is a step: the prompt of ``prompt`` tokens in one go, then ``new`` tokens one at a time.
    Look for the diagonal on the left: with the cache every token is computed once.
    """
    tables = dict(zip(("with the cache", "without"), steps_computed(prompt, new), strict=True))
    counts = {name: np.count_nonzero(table == 2) for name, table in tables.items()}
    alt = (
        f"Two tables of {new + 1} steps by {prompt + new} tokens. With the cache "
        f"{counts['with the cache']} keys are computed, each token once; without it "
        f"{counts['without']}, because every step computes all earlier tokens again."
    )
    size = (7.5, float(np.clip(1.6 + 0.22 * (new + 1), 2.4, 4.5)))
    figure, axes = drawing("Which keys each step computes", alt, 1, 2, size, sharey=True)
    colours = (PAPER, COLOURS[4], COLOURS[0])
    shades = ListedColormap(colours)
    small = prompt + new <= 16 and new <= 12
    for axis, (name, table) in zip(axes, tables.items(), strict=True):
        axis.imshow(table, cmap=shades, vmin=0, vmax=2, aspect="auto", interpolation="nearest")
        if small:
            for (step, token), kind in np.ndenumerate(table):
                ink = PAPER if kind == 2 else INK
                letter = " kc"[kind]
                axis.text(token, step, letter, ha="center", va="center", fontsize=7, color=ink)
        axis.axvline(prompt - 0.5, color=INK, lw=1, ls="--")
        axis.set_title(f"{name}: {counts[name]:,} computed", fontsize=9, color=INK)
        axis.set_xlabel(f"token (dashed: end of the prompt of {prompt})", fontsize=8)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.yaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylabel("step", fontsize=9)
    kinds = ("not there yet", "cached (k)", "computed (c)")
    patches = [
        Patch(fc=c, ec=FAINT, label=n if small else n.replace(" (k)", "").replace(" (c)", ""))
        for c, n in zip(colours, kinds, strict=True)
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def cache_bytes(config: TextConfig, tokens: Any, bytes_each: int = 4) -> Any:
    """Bytes of keys and values of ``tokens`` tokens: 2 x layers x key heads x head size each."""
    values = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return values * bytes_each * tokens


def cache_growth(
    config: TextConfig,
    prompt: int,
    new: int,
    bytes_each: int = 4,
    image: int = 0,
    title: str = "Growth of the KV cache",
) -> Drawing:
    """The size of the cache after the prompt and after each new token.

    ``bytes_each`` is 4 for float32, 2 for bfloat16; ``image`` says how many tokens of the prompt
    are image tokens. A bar is a step: from below the image, the rest of the prompt, and the new
    tokens. The line is what it would take if every query head had a key head of its own. Look at
    the share of the image.
    """
    steps = np.arange(new + 1)
    more = config.num_attention_heads // config.num_key_value_heads
    one = cache_bytes(config, 1, bytes_each)
    unit, name = (2**20, "MiB") if one * (prompt + new) * more >= 2**21 else (2**10, "KiB")
    first, last = one * prompt / unit, one * (prompt + new) / unit
    alt = (
        f"Bars of the cache's size at {new + 1} steps: {first:,.1f} {name} after the prompt of "
        f"{prompt} tokens, {image} of them an image's; {last:,.1f} {name} after {new} more. "
        f"Without shared key heads it would end at {last * more:,.1f} {name}, {more} times as much."
    )
    figure, axes = drawing(title, alt, size=(7.5, 3.8))
    parts: list[tuple[str, np.ndarray, dict[str, Any]]] = [
        ("the image", np.full(new + 1, image), {"color": COLOURS[0]}),
        ("the rest of the prompt", np.full(new + 1, prompt - image), {"color": COLOURS[4]}),
        ("new tokens", steps, {"color": COLOURS[1], "ec": INK, "lw": 0.4 if new <= 60 else 0}),
    ]
    below = np.zeros(new + 1)
    handles = []
    for label, tokens, style in parts:
        if not np.any(tokens):
            continue
        hatch = "///" if label == "new tokens" and new <= 60 else None
        heights = one * tokens / unit
        label = f"{label}: {np.max(tokens):,}"
        handles.append(axes.bar(steps, heights, 1, bottom=below, label=label, hatch=hatch, **style))
        below = below + heights
    if more > 1:
        line = {"color": COLOURS[5], "ls": "--", "lw": 2}
        label = f"with one key head per query head: {more} times"
        handles += axes.plot(steps, more * below, label=label, **line)
    edge = 0.5 - 0.008 * (new + 1)  # so far from the middle of a bar: not on the frame
    for step, x, size, side in ((0, -edge, first, "left"), (new, new + edge, last, "right")):
        said = f"{prompt + step:,} tokens, {size:,.1f} {name}"
        above = size + 0.02 * more * last
        axes.text(x, above, said, ha=side, va="bottom", fontsize=8, color=INK)
    axes.set_xlabel("step (0: the prompt; then one new token per step)", fontsize=9)
    axes.set_ylabel(f"keys and values, {name}", fontsize=9)
    axes.set_xlim(-0.5, new + 0.5)
    axes.set_ylim(0, 1.12 * more * last)
    axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(handles=handles, ncols=2, loc="outside lower center", fontsize=8, frameon=False)
    return figure


def errors_by_step(
    errors: Mapping[str, Float[Array, "S"]],
    words: Sequence[str],
    title: str = "Error of the logits, token by token",
) -> Drawing:
    """The largest error of the logits at each step of an answer, for several bugs.

    ``errors`` are [S], by name; ``words`` are the tokens that each step reads. The scale is
    logarithmic: a bug is orders of magnitude above rounding, even where the words agree.
    """
    ranges = [f"{name}: from {np.min(e):.0e} to {np.max(e):.0e}" for name, e in errors.items()]
    alt = f"Lines of the largest error at {len(words)} steps. " + "; ".join(ranges) + "."
    figure, axes = drawing(title, alt, size=(7.5, 3.6))
    for number, (name, each) in enumerate(errors.items()):
        marker = "osD^v"[number % 5]
        style = {"color": COLOURS[number % 7], "marker": marker, "ms": 4, "lw": 1.5}
        axes.plot(np.maximum(each, 1e-9), label=name, **style)
    axes.set_yscale("log")
    names = [word.strip() or "(space)" for word in words]
    axes.set_xticks(np.arange(len(words)), names)
    axes.tick_params(axis="x", labelrotation=60)
    axes.set_xlabel("input token", fontsize=9)
    axes.set_ylabel("largest error of a logit", fontsize=9)
    axes.grid(axis="y", color=FAINT, lw=0.4)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure
