"""What the decoder looks at, and what image tokens would say: drawn over the image."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from matplotlib.patches import Rectangle

from .. import decoder, nn
from ..config import Config
from ..dims import Array, Float
from ..weights import Weights
from .style import COLOURS, FAINT, INK, PAPER, SEQUENTIAL, Drawing, drawing, show_image

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


# ------------------------------------------------------------------ how much is inside a box


def box_cover(box: Box, grid: Sequence[int], merge: int = 2, patch: int = 14) -> Float[Array, "M"]:
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


def share_inside(weights: Float[Array, "... M"], cover: Float[Array, "M"]) -> Float[Array, "..."]:
    """The part of the attention on the image that falls on what ``cover`` covers.

    Attention on text is left out of the sum. A row that looks everywhere alike gets the mean of
    ``cover``: the share of area.
    """
    return np.sum(weights * cover, axis=-1) / np.sum(weights, axis=-1)


def heads_inside(
    shares: Float[Array, "... A"], level: float, title: str = "Which head looks at it"
) -> Drawing:
    """The share of attention inside a box, for every layer (rows) and head (columns).

    ``shares`` is [layers, heads], each from 0 to 1 (:func:`share_inside`); ``level`` is the share
    of area, which a head that looks everywhere alike would have. The largest is framed.
    """
    layers, heads = shares.shape
    layer, head = np.unravel_index(np.argmax(shares), shares.shape)
    alt = (
        f"A table of {layers} layers by {heads} heads. Layer {layer}, head {head} has the most of "
        f"its attention inside: {shares[layer, head]:.0%}, where the area is {level:.0%}; "
        f"{np.count_nonzero(shares > 2 * level)} of {shares.size} have over twice that area."
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
    bar.set_label(f"% inside (line: its area, {level:.0%})", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    return figure


# ------------------------------------------------------------------ attention


def attention_over_image(
    image: Any,
    weights: Float[Array, "S M"],
    grid: Sequence[int],
    labels: Sequence[str],
    merge: int = 2,
    patch: int = 14,
    boxes: Sequence[Box] = (),
    columns: int = 3,
    title: str = "What each token looks at",
) -> Drawing:
    """How much each of some rows looks at each image token, over the image.

    ``weights`` are rows of any head of any layer (:meth:`Model.attention_weights`), cut to the
    keys that are image tokens; ``labels`` says what each row is. ``grid`` is (t, h, w) in patches;
    with t > 1, ``image`` is a list of t images, and times stand side by side. All rows share
    one scale, and over each stands how much of its attention is on the image at all. ``boxes``,
    in pixels of the resized image, are outlined everywhere. Look for rows that light up where
    the word that comes next has its shape.
    """
    t, down, across = grid[0], grid[1] // merge, grid[2] // merge
    images = list(image) if isinstance(image, (list, tuple)) else [image] * t
    maps = np.reshape(weights, (len(weights), t, down, across))
    columns = t if t > 1 else max(1, min(columns, 1 + len(weights)))
    rows = -(-(1 + len(weights)) * t // columns)
    tall = 0.5 + rows * (0.42 + min(2.2 * down / across, 3.5) * 3 / max(columns, 3))
    size = (min(max(2.2 * min(columns, 3) + 0.9, 4.0), 7.5), tall)
    figure, axes = drawing(title, _looks(maps, labels), rows, columns, size, squeeze=False)
    panels = list(np.ravel(axes))
    extent = (0, grid[2] * patch, grid[1] * patch, 0)
    for axis in panels:
        axis.set_axis_off()
    for time, axis in enumerate(panels[:t]):
        _stretched(axis, images[time], extent, "the image" if t == 1 else f"time {time}")
        _lattice(axis, down, across, merge * patch)
    heatmap = None
    for panel, axis in enumerate(panels[t : t * (1 + len(weights))]):
        row, time = divmod(panel, t)
        grey = np.mean(np.asarray(images[time])[..., :3], axis=-1)
        axis.imshow(grey, cmap="gray", vmin=-200, vmax=255, extent=extent)
        heatmap = axis.imshow(
            100 * maps[row, time],
            **{"cmap": SEQUENTIAL, "vmin": 0, "vmax": 100 * np.max(weights)},
            **{"extent": extent, "alpha": 0.7, "interpolation": "nearest"},
        )
        named = f"{shown(labels[row])}\n{np.sum(maps[row, time]):.0%} of its attention is here"
        axis.set_title(named, fontsize=8, color=INK)
    for axis in panels[: t * (1 + len(weights))]:
        for box in boxes:
            _outline(axis, box)
    if heatmap is not None:
        bar = figure.colorbar(heatmap, ax=panels, shrink=0.8, aspect=30, pad=0.02)
        bar.set_label("% of its attention", fontsize=8)
        bar.ax.tick_params(labelsize=8)
    return figure


def _looks(maps: np.ndarray, labels: Sequence[str]) -> str:
    """The alt text of :func:`attention_over_image`."""
    t, down, across = maps.shape[1:]
    said = []
    for label, row in zip(labels[:6], maps, strict=False):
        time, y, x = np.unravel_index(np.argmax(row), row.shape)
        when = f"time {time}, " if t > 1 else ""
        said.append(f"{shown(label)} most at {when}row {y}, column {x} ({np.max(row):.0%})")
    return (
        f"The image, and how much {len(labels)} rows of one head look at each of its "
        f"{down} x {across} tokens. Counted from 0: {'; '.join(said)}."
    )


def _stretched(axis: Any, image: Any, extent: tuple[float, ...], title: str) -> None:
    """An image whose coordinates are those of ``extent``: left, right, bottom, top."""
    show_image(axis, image, title)
    axis.images[0].set_extent(extent)
    axis.set(xlim=extent[:2], ylim=extent[2:])


def _lattice(axis: Any, down: int, across: int, side: int) -> None:
    """Thin lines between the squares of the image tokens."""
    lines = {"color": FAINT, "lw": 0.5}
    axis.vlines(np.arange(across + 1) * side, 0, down * side, **lines)
    axis.hlines(np.arange(down + 1) * side, 0, across * side, **lines)


def _outline(axis: Any, box: Box) -> None:
    """A box that shows on dark and on light."""
    left, top, right, bottom = box
    for colour, style in ((INK, "-"), (PAPER, (0, (3, 3)))):
        place = ((left, top), right - left, bottom - top)
        axis.add_patch(Rectangle(*place, fill=False, ec=colour, lw=1.6, ls=style))


# ------------------------------------------------------------------ the logit lens


def lens(stream: Float[Array, "S D"], weights: Weights, config: Config) -> Float[Array, "S V"]:
    """The logit lens: probabilities of the vocabulary, were the decoder to end at this layer.

    ``stream`` is what some layer gives (``model.layers.N``) or ``model.inputs_embeds``; it goes
    through the last norm and the head, as if no layer came after (nostalgebraist 2020).
    """
    x = nn.rms_norm(stream, weights.model.norm, config.text.rms_norm_eps)
    return nn.softmax(decoder.logits(x, weights.lm_head))


def logit_lens(
    image: Any,
    streams: Mapping[str, Float[Array, "M D"]],
    grid: Sequence[int],
    weights: Weights,
    config: Config,
    word: Callable[[int], str],
    among: Collection[int] | None = None,
    marked: Collection[str] = (),
    title: str = "The word that each image token is nearest to",
) -> Drawing:
    """:func:`lens` on image tokens, one panel a layer: the likeliest word of each, over its square.

    ``streams`` are the image tokens' rows [M, D] of some layers, by name; ``grid`` is that of one
    image, (1, h, w) in patches; ``word`` names an id. With ``among``, only these ids may be
    named. Words that are ``marked`` get a frame. The paler a word, the less sure it is; the number
    over a panel is the mean. After Neo et al. 2024, "Towards Interpreting Visual
    Information Processing in Vision-Language Models": in a large model squares of an object tend
    to name it in late layers. In a small one they need not.
    """
    merge = config.vision.spatial_merge_size
    down, across = grid[1] // merge, grid[2] // merge
    ids = np.arange(config.text.vocab_size) if among is None else np.array(sorted(among))
    panel = min(7.0 * down / across, 5.0)
    size = (7.5, 0.6 + len(streams) * (panel + 0.3))
    figure, axes = drawing(title, "", len(streams), 1, size, squeeze=False)
    room = max(2, int(72 * min(7.0, panel * across / down) / across / 4.6))  # characters in 7 pt
    told = []
    for axis, (name, stream) in zip(np.ravel(axes), streams.items(), strict=True):
        chances = lens(stream, weights, config)[:, ids]
        best = np.argmax(chances, axis=1)
        sure = np.max(chances, axis=1)
        words = [word(int(ids[i])) for i in best]
        framed = np.array([w.strip() in marked for w in words])
        extent = (0, across, down, 0)
        _stretched(axis, image, extent, f"{name}: {np.mean(sure):.0%} sure on average")
        veil = np.zeros((down, across, 4))
        veil[..., :3], veil[..., 3] = 1.0, 0.8
        axis.imshow(veil, extent=extent)
        _lattice(axis, down, across, 1)
        for place, (text, chance) in enumerate(zip(words, sure, strict=True)):
            y, x = divmod(place, across)
            ink = {"color": INK, "alpha": float(np.clip(0.45 + chance, 0.45, 1))}
            cut = shown(text) if len(shown(text)) <= room else shown(text)[: room - 1] + "…"
            axis.text(x + 0.5, y + 0.5, cut, ha="center", va="center", fontsize=7, **ink)
            if framed[place]:
                frame = ((x + 0.05, y + 0.05), 0.9, 0.9)
                axis.add_patch(Rectangle(*frame, fill=False, ec=COLOURS[5], lw=1.6))
        common = max(sorted(set(words)), key=words.count)
        told.append(
            f"{name}: {len(set(words))} different words, most often {shown(common)} "
            f"({words.count(common)} of {len(words)})"
            + (f", {np.count_nonzero(framed)} framed" if marked else "")
        )
    figure.alt = f"A word over each of {down} x {across} image tokens. " + "; ".join(told) + "."
    return figure


# ------------------------------------------------------------------ words as labels


@cache
def _letters() -> frozenset[int]:
    """The characters that the font of the figures has."""
    return frozenset(FT2Font(font_manager.findfont("DejaVu Sans")).get_charmap())


def shown(word: str) -> str:
    """A token's text as a label: spaces around it dropped, nothing that the font cannot draw."""
    if not word.strip():
        return {"": "(none)", "\n": "(line)"}.get(word, "(space)")
    return drawable(word.strip())


def drawable(text: str) -> str:
    """The text with the codes of characters that the font lacks, and with dollars as they are."""
    letters = (c if ord(c) in _letters() else f"U+{ord(c):04X}" for c in text)
    return "".join(letters).replace("$", r"\$")
