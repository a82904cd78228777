"""The whole model in one figure, with the shapes of a recorded run and the checkpoint's names."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from .. import nn, vision
from ..config import Config
from .style import COLOURS, FAINT, INK, PAPER, Drawing, drawing
from .vision_windows import tint
from .words import drawable

PIXELS, ENCODER, PROMPT, DECODER, ANSWER = "#f0e442", "#56b4e9", "#999999", "#e69f00", "#cc79a7"
WIDTH, HEIGHT = 10.4, 6.1  # inches, and the units of the axes
PITCH, SIDE = 1.275, 1.10  # from box to box, and their width
LEFT, UPPER, LOWER, TALL = 0.16, 1.18, 3.42, 1.62  # left edge, tops of both rows, height of a box


class Run(NamedTuple):
    """What the figure shows of a run."""

    stages: Mapping[str, Sequence[Any]]
    config: Config
    image: np.ndarray
    words: Sequence[str]

    def first(self, name: str) -> Any:
        """The array of a stage in its first call."""
        return self.stages[name][0]

    def shape(self, name: str) -> str:
        """As in [384, 1176]."""
        return str(list(np.shape(self.first(name))))

    @property
    def media(self) -> Any:
        """[S] True where an image token stands."""
        return self.first("input_ids") == self.config.image_token_id


class Box(NamedTuple):
    """A box of the figure: column of its row, title, shape, name, drawing, columns."""

    column: float
    title: str
    shape: str
    name: str
    icon: Callable[[Axes, Run, tuple[float, float, float, float]], None]
    columns: int = 1


def model_map(
    stages: Mapping[str, Sequence[Any]],
    config: Config,
    image: Any,
    words: Sequence[str],
    question: str = "Describe the picture.",
    title: str = "From an image and a question to words",
) -> Drawing:
    """The whole model: image path, text path, decoder and decode loop, with the shapes of a run.

    ``stages`` is what ``tinyqwenvl.trace()`` collected while one image was prepared and an answer
    was generated; ``words`` are the texts of the generated tokens. Names under the boxes are those
    of the checkpoint and of the trace. Everything that is drawn in the boxes comes from the run.
    """
    run = Run(stages, config, np.asarray(image), words)
    upper, lower = _image_path(run), _text_path(run, question)
    figure, axes = drawing(title, _alt(run, [*upper, *lower]), size=(WIDTH, HEIGHT))
    figure.set_layout_engine("none")
    axes.set_position((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0), aspect="equal")
    axes.set_axis_off()
    for row, top, low, groups in (
        (upper, UPPER, False, ((0, 2, "image processor", PIXELS), (3, 7, "vision encoder", ENCODER))),
        (lower, LOWER, True, ((0, 1, "prompt", PROMPT), (2, 5, "decoder", DECODER),
                              (6, 7, "next token", ANSWER))),
    ):  # fmt: skip
        for first, last, name, colour in groups:
            _band(axes, first, last, top, name, colour, low)
        for box in row:
            _box(axes, run, box, top)
        for box in row[1:]:
            x, y = LEFT + box.column * PITCH, top + TALL / 2
            _arrow(axes, [(x - PITCH + SIDE + 0.01, y), (x - 0.01, y)])
    _image_tokens(axes, run)
    _rotary(axes, run)
    _positions_and_cache(axes, run)
    _loop(axes, run)
    return figure


def _alt(run: Run, boxes: Sequence[Box]) -> str:
    path = ", ".join(f"{' '.join(b.title.split())} {b.shape}".strip() for b in boxes)
    return (
        f"Two rows of boxes with arrows. Above, the image path and below, the text path: {path}. "
        f"The {np.count_nonzero(run.media)} image tokens replace their placeholders; 2-D RoPE "
        f"rotates queries and keys of the vision encoder, mRoPE those of the decoder, which fills "
        f"a KV cache. A loop leads from the next token back to the embedding, "
        f"{len(run.words)} times."
    )


# ------------------------------------------------------------------ the boxes


def _image_path(run: Run) -> list[Box]:
    high, wide = run.image.shape[:2]
    encoder, merge = run.config.vision, run.config.vision.spatial_merge_size
    resized = run.shape("image.resize").replace("[1, ", "[")
    full = len(encoder.fullatt_block_indexes)
    kinds = f"{encoder.depth - full} windowed,\n{full} full" if full < encoder.depth else "all full"
    name = f"visual.blocks.0\N{EN DASH}{encoder.depth - 1}"
    tokens = run.shape("visual.merger")
    return [
        Box(0, "image", f"{wide} x {high}", "RGB", _thumbnail),
        Box(1, "smart_resize\nto multiples of 28", resized, "image.resize", _gridded),
        Box(2, "normalise,\npatchify", run.shape("pixel_values"), "pixel_values", _exploded),
        Box(3, "patch\nembedding", run.shape("visual.patch_embed"), "visual.patch_embed", _embedded),
        Box(4, "reorder into\nwindows", run.shape("visual.window_index"), "visual.window_index",
            _window_path),
        Box(5, f"blocks: {kinds}", run.shape("visual.blocks.0"), name, _encoder_masks),
        Box(6, f"merger: {merge} x {merge}\npatches, 1 token", tokens, "visual.merger", _merging),
        Box(7, "back to raster\norder", run.shape("visual"), "visual", _raster_path),
    ]  # fmt: skip


def _text_path(run: Run, question: str) -> list[Box]:
    text, image = run.config.text, int(np.count_nonzero(run.media))
    heads = f"{text.num_attention_heads} query heads, {text.num_key_value_heads} KV heads"
    layers = f"{text.num_hidden_layers} decoder layers: RMSNorm, causal\nattention ({heads}), SwiGLU"
    answer = "".join(run.words).strip()
    name = f"model.layers.0\N{EN DASH}{text.num_hidden_layers - 1}"
    asked = _wrapped(f"<image>\n“{question}”", 13, 5)
    return [
        Box(0, "messages in the\nchat template", f"{len(run.media)} tokens", "text", asked),
        Box(1, f"tokenizer: {image}\nplaceholders", run.shape("input_ids"), "input_ids", _ids),
        Box(2, "token\nembedding", run.shape("model.embed_tokens"), "model.embed_tokens", _looked_up),
        Box(3, "scatter image\ntokens", run.shape("model.inputs_embeds"), "model.inputs_embeds",
            _scattered),
        Box(4, layers, run.shape("model.layers.0"), name, _decoder, 2),
        Box(6, "RMSNorm,\nLM head", run.shape("lm_head"), "model.norm, lm_head", _logits),
        Box(7, "argmax: the\nnext token", f"{len(run.words)} tokens", "generated",
            _wrapped(f"“{answer}”", 16, 6)),
    ]  # fmt: skip


def _box(axes: Axes, run: Run, box: Box, top: float) -> None:
    left, wide = LEFT + box.column * PITCH, SIDE + (box.columns - 1) * PITCH
    frame = FancyBboxPatch((left, top), wide, TALL, boxstyle="round,pad=0,rounding_size=0.07",
                           facecolor=PAPER, edgecolor=INK, linewidth=0.9)  # fmt: skip
    axes.add_patch(frame)
    middle = left + wide / 2
    _say(axes, middle, top + 0.215, box.title, size=8.2, weight="bold", linespacing=1.0)
    box.icon(axes, run, (left + 0.12, left + wide - 0.12, top + 0.42, top + TALL - 0.42))
    _say(axes, middle, top + TALL - 0.29, box.shape, size=8.6)
    small = 7.2 if len(box.name) <= 16 or box.columns > 1 else 6.6
    _say(axes, middle, top + TALL - 0.11, box.name, size=small, family="monospace", color="#333333")


def _band(axes: Axes, first: int, last: int, top: float, name: str, colour: str, low: bool) -> None:
    """A tinted area behind the boxes of a part of the model, its name in a corner."""
    left, right = LEFT + first * PITCH - 0.08, LEFT + last * PITCH + SIDE + 0.08
    pale = 1 - 0.33 * (1 - np.array(to_rgb(colour)))
    above, below = (0.26, 0.1) if not low else (0.26, 0.1)
    shape = FancyBboxPatch(
        (left, top - above), right - left, TALL + above + below, facecolor=pale, edgecolor="none",
        boxstyle="round,pad=0,rounding_size=0.1", zorder=0,
    )  # fmt: skip
    axes.add_patch(shape)
    _say(axes, left + 0.1, top - 0.13, name, size=9, ha="left", style="italic")


def _say(axes: Axes, x: float, y: float, text: str, size: float = 8, **look: Any) -> None:
    look = {"ha": "center", "va": "center", "color": INK, "linespacing": 1.15} | look
    axes.text(x, y, text, fontsize=size, parse_math=False, **look)


def _arrow(axes: Axes, points: Sequence[tuple[float, float]], colour: str = INK) -> None:
    """A line through points, with a head at the end."""
    *first, last = points
    if len(points) > 2:
        axes.plot(*np.transpose(first), color=colour, linewidth=1.5, solid_capstyle="butt", zorder=3)
    look = {"arrowstyle": "-|>,head_width=2.4,head_length=4", "color": colour, "linewidth": 1.5}
    axes.add_patch(FancyArrowPatch(first[-1], last, shrinkA=0, shrinkB=0, zorder=3, **look))


# ------------------------------------------------------------------ between and around the rows


def _image_tokens(axes: Axes, run: Run) -> None:
    """From the end of the image path down to the placeholders."""
    x, to, y = LEFT + 7 * PITCH + SIDE / 2, LEFT + 3 * PITCH + SIDE / 2, UPPER + TALL + 0.26
    _arrow(axes, [(x, UPPER + TALL), (x, y), (to, y), (to, LOWER)], COLOURS[0])
    said = f"{np.count_nonzero(run.media)} image tokens replace the placeholders' embeddings"
    box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5}
    _say(axes, (x + to) / 2, y, said, size=8.4, color=COLOURS[0], bbox=box, zorder=4)


def _note(axes: Axes, left: float, top: float, wide: float, lines: str, name: str) -> None:
    look = {"facecolor": PAPER, "edgecolor": INK, "linewidth": 0.9, "linestyle": "--"}
    axes.add_patch(FancyBboxPatch((left, top), wide, 0.46, boxstyle="round,pad=0,rounding_size=0.07",
                                  zorder=2, **look))  # fmt: skip
    _say(axes, left + wide / 2, top + 0.15, lines, size=8)
    _say(axes, left + wide / 2, top + 0.34, name, size=7.2, family="monospace", color="#333333")


def _rotary(axes: Axes, run: Run) -> None:
    """The angles of the encoder, above its blocks."""
    middle = LEFT + 5 * PITCH + SIDE / 2
    name = f"visual.rotary_angles {run.shape('visual.rotary_angles')}"
    _note(axes, middle - 1.35, 0.36, 2.7, "2-D RoPE: row and column rotate q and k", name)
    _arrow(axes, [(middle, 0.82), (middle, UPPER)])


def _positions_and_cache(axes: Axes, run: Run) -> None:
    """Positions and cache of the decoder, below its layers."""
    top, left = LOWER + TALL + 0.2, LEFT + 4 * PITCH
    name = f"model.position_ids {run.shape('model.position_ids')}"
    _note(axes, left - 1.3, top, 2.3, "mRoPE: time, height, width", name)
    _arrow(axes, [(left + 0.45, top), (left + 0.45, LOWER + TALL)])
    text, held = run.config.text, list(np.shape(run.first("model.layers.0.self_attn.k")))
    name = f"{text.num_hidden_layers} layers x 2 x {held}"
    _note(axes, left + 1.1, top, 2.1, "KV cache: grows by 1 per token", name)
    for x, end, begin in ((1.55, top, LOWER + TALL), (1.95, LOWER + TALL, top)):
        _arrow(axes, [(left + x, begin), (left + x, end)])


def _loop(axes: Axes, run: Run) -> None:
    """The decode loop: from the last box back to the embedding."""
    last, to, y = LEFT + 7 * PITCH + SIDE / 2, LEFT + 2 * PITCH + SIDE / 2, HEIGHT - 0.17
    _arrow(axes, [(last, LOWER + TALL), (last, y), (to, y), (to, LOWER + TALL)], COLOURS[5])
    tokens, positions = len(run.media), run.first("model.position_ids")
    delta = int(np.max(positions)) + 1 - tokens
    said = f"decode loop: one token at a time, at position index + rope_delta ({delta:+d})"
    box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5}
    _say(axes, (last + to) / 2, y, said.replace("-", "\N{MINUS SIGN}") if delta < 0 else said,
         size=8.4, color="#b04a00", bbox=box, zorder=4)  # fmt: skip


# ------------------------------------------------------------------ small drawings in the boxes

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


def _thumbnail(axes: Axes, run: Run, place: Place) -> None:
    _pixels(axes, run.image, place)


def _resized(run: Run) -> np.ndarray:
    return np.asarray(run.first("image.resize"))[0].astype(np.uint8)


def _gridded(axes: Axes, run: Run, place: Place) -> None:
    """The resized image and its tokens."""
    pixels = _resized(run)
    left, right, low, top = _pixels(axes, pixels, place)
    side = run.config.vision.patch_size * run.config.vision.spatial_merge_size
    across, down = pixels.shape[1] // side, pixels.shape[0] // side
    axes.vlines(np.linspace(left, right, across + 1), top, low, color=INK, lw=0.35, zorder=3)
    axes.hlines(np.linspace(top, low, down + 1), left, right, color=INK, lw=0.35, zorder=3)


def _exploded(axes: Axes, run: Run, place: Place) -> None:
    """Some patches, pulled apart; groups of a token further than patches."""
    pixels, patch = _resized(run), run.config.vision.patch_size
    merge, gap = run.config.vision.spatial_merge_size, 3
    ink = np.abs(pixels.astype(int) - pixels[0, 0]).sum(axis=2) > 90
    rows, columns = (min(6, n // patch // merge * merge) for n in pixels.shape[:2])
    middle = [int(np.mean(np.flatnonzero(ink.any(axis=a)))) if ink.any() else 0 for a in (1, 0)]
    side = patch * merge
    y, x = (
        min(max(0, (m - n * patch // 2) // side * side), size - n * patch)
        for m, n, size in zip(middle, (rows, columns), pixels.shape, strict=False)
    )
    shift = [[n * (patch + gap) + n // merge * gap * 2 for n in range(k)] for k in (rows, columns)]
    paper = np.full((shift[0][-1] + patch, shift[1][-1] + patch, 3), 255, np.uint8)
    for i, j in np.ndindex(rows, columns):
        cut = pixels[y + i * patch : y + (i + 1) * patch, x + j * patch : x + (j + 1) * patch].copy()
        cut[[0, -1]] = cut[:, [0, -1]] = 120
        a, b = shift[0][i], shift[1][j]
        paper[a : a + patch, b : b + patch] = cut
    axes.imshow(paper, extent=_fit(place, *paper.shape[:2]), interpolation="nearest", zorder=2)
    axes.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0), aspect="equal")


def _values(axes: Axes, place: Place, array: Any, rows: int = 22, columns: int = 24) -> None:
    part = np.asarray(array)[:rows, :columns]
    most = float(np.percentile(np.abs(part), 98)) or 1.0
    _pixels(axes, part, place, cmap="PuOr", vmin=-most, vmax=most)


def _embedded(axes: Axes, run: Run, place: Place) -> None:
    _values(axes, place, run.first("visual.patch_embed"))


def _looked_up(axes: Axes, run: Run, place: Place) -> None:
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
    index, ends = vision.window_index(np.asarray(run.first("image_grid_thw")), config)
    windows = np.repeat(np.arange(len(ends) - 1), np.diff(ends) // config.merged_patches)
    return index, windows[np.argsort(index)]


def _window_path(axes: Axes, run: Run, place: Place) -> None:
    _path(axes, run, place, *_windows(run))


def _raster_path(axes: Axes, run: Run, place: Place) -> None:
    index, windows = _windows(run)
    _path(axes, run, place, np.arange(len(index)), windows)


def _mask(axes: Axes, place: Place, key_ranges: Any, keys: int) -> None:
    mask = nn.visible_keys(np.asarray(key_ranges), keys)
    _pixels(axes, np.where(mask[..., None], to_rgb(COLOURS[0]), to_rgb("#eeeeee")), place)


def _encoder_masks(axes: Axes, run: Run, place: Place) -> None:
    """The attention mask of a windowed block, and of a full one."""
    left, right, top, bottom = place
    full = run.config.vision.fullatt_block_indexes
    kinds = [i for i in range(run.config.vision.depth) if i not in full][:1] + list(full)[:1]
    wide = (right - left - 0.08) / 2
    for number, block in enumerate(kinds):
        at = left + number * (wide + 0.08)
        ranges = run.first(f"visual.blocks.{block}.attn.key_ranges")
        _mask(axes, (at, at + wide, top, bottom), ranges, len(ranges))
        _say(axes, at + wide / 2, bottom - 0.05, ("window", "full")[block in full], size=6.8)


def _merging(axes: Axes, run: Run, place: Place) -> None:
    """Patches of one group, and the token that they become."""
    left, right, top, _ = place
    side, merge = 0.2, run.config.vision.spatial_merge_size
    y = (top + place[3]) / 2
    for number in range(merge * merge):
        i, j = divmod(number, merge)
        corner = (left + 0.02 + j * side, y + (i - merge / 2) * side)
        axes.add_patch(Rectangle(corner, side - 0.02, side - 0.02, facecolor=COLOURS[4],
                                 edgecolor=INK, linewidth=0.6))  # fmt: skip
    _arrow(axes, [(left + merge * side + 0.05, y), (right - 0.27, y)])
    axes.add_patch(Rectangle((right - 0.23, y - 0.1), side, side, facecolor=COLOURS[0], linewidth=0))


def _cells(axes: Axes, place: Place, colours: Any) -> None:
    """Tokens as cells, in lines."""
    across = math.ceil(math.sqrt(len(colours)))
    blank = [to_rgb(PAPER)] * (-len(colours) % across)
    table = np.array([*colours, *blank]).reshape(-1, across, 3)
    left, right, low, top = _pixels(axes, table, place)
    look = {"color": PAPER, "lw": 0.4, "zorder": 3}
    axes.vlines(np.linspace(left, right, across + 1), top, low, **look)
    axes.hlines(np.linspace(top, low, len(table) + 1), left, right, **look)


def _ids(axes: Axes, run: Run, place: Place) -> None:
    """Text tokens blue, placeholders yellow."""
    _cells(axes, place, [to_rgb("#f3c766" if m else "#9fc9e6") for m in run.media])


def _scattered(axes: Axes, run: Run, place: Place) -> None:
    """Text tokens blue, image tokens in the colours of the image."""
    down, across = _token_grid(run)
    pixels = _resized(run) / 255
    means = pixels.reshape(down, pixels.shape[0] // down, across, -1, 3).mean(axis=(1, 3))
    colours = np.tile(to_rgb("#9fc9e6"), (len(run.media), 1))
    colours[run.media] = means.reshape(-1, 3)
    _cells(axes, place, colours)


def _decoder(axes: Axes, run: Run, place: Place) -> None:
    """The causal mask, and the positions of all tokens on three axes."""
    left, right, top, bottom = place
    ranges = run.first("model.layers.0.self_attn.key_ranges")
    _mask(axes, (left, left + 0.85, top, bottom), ranges, len(ranges))
    positions = np.asarray(run.first("model.position_ids"))
    x = np.linspace(left + 1.08, right - 0.05, positions.shape[1])
    axes.plot([left + 1.05, left + 1.05, right], [top, bottom - 0.05, bottom - 0.05], color=INK, lw=0.7)
    for row, colour, size in zip(positions, COLOURS, (1.6, 1.3, 1.0), strict=False):
        y = bottom - 0.09 - row / max(1, positions.max()) * (bottom - top - 0.12)
        axes.plot(x, y, ".", color=colour, markersize=size * 1.6, markeredgewidth=0)
    _say(axes, left + 1.1, top + 0.06, "positions:", size=6.8, ha="left")
    for number, name in enumerate(("time", "height", "width")):
        _say(axes, left + 1.1, top + 0.17 + 0.1 * number, name, size=6.8, ha="left",
             color=COLOURS[number])  # fmt: skip


def _logits(axes: Axes, run: Run, place: Place) -> None:
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


def _wrapped(text: str, width: int, most: int) -> Callable[[Axes, Run, Place], None]:
    """A text in a box, in at most so many lines."""
    lines = [line for part in text.split("\n") for line in textwrap.wrap(part, width)]
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1] + " …"]

    def draw(axes: Axes, run: Run, place: Place) -> None:
        left, right, top, bottom = place
        _say(axes, (left + right) / 2, (top + bottom) / 2, drawable("\n".join(lines)), size=7.6)

    return draw
