"""The whole model in one figure, with the shapes of a recorded run and the checkpoint's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyBboxPatch

from ..config import Config
from . import icons
from .icons import HEIGHT, WIDTH, Run, arrow, say
from .style import COLOURS, INK, PAPER, Drawing, drawing

PIXELS, ENCODER, PROMPT, DECODER, ANSWER = "#f0e442", "#56b4e9", "#999999", "#e69f00", "#cc79a7"
PITCH, SIDE = 1.275, 1.10  # from box to box, and their width
LEFT, UPPER, LOWER, TALL = 0.16, 1.18, 3.42, 1.62  # left edge, tops of both rows, height of a box

# First and last column, name and colour of each part.
UPPER_GROUPS = ((0, 2, "image processor", PIXELS), (3, 7, "vision encoder", ENCODER))
LOWER_GROUPS = (
    (0, 1, "prompt", PROMPT),
    (2, 5, "decoder", DECODER),
    (6, 7, "next token", ANSWER),
)


class Box(NamedTuple):
    """A box of the figure: column of its row, title, shape, name, drawing, columns."""

    column: float  # of its left edge, from 0
    title: str  # at the top; may have two lines
    shape: str  # or another size, as text
    name: str  # of the stage or weight, at the bottom
    icon: Callable[[Axes, Run, tuple[float, float, float, float]], None]  # draws its content
    columns: int = 1  # how many it covers


def model_map(
    stages: Mapping[str, Sequence[Any]],
    config: Config,
    image: Any,
    words: Sequence[str],
    question: str = "Describe the picture.",
    title: str = "",
) -> Drawing:
    """The whole model: image path, text path, decoder and decode loop, with the shapes of a run.

    ``stages`` is what ``tinyqwenvl.trace()`` collected while one image was prepared and an answer
    was generated; ``words`` are the texts of the generated tokens. Names under the boxes are those
    of the checkpoint and of the trace. Everything that is drawn in the boxes comes from the run.
    """
    run = Run(stages, config, np.asarray(image), words)
    upper, lower = _image_path(run), _text_path(run, question)
    title = title or f"{run.family}: from an image and a question to words"
    figure, axes = drawing(title, _alt(run, [*upper, *lower]), size=(WIDTH, HEIGHT))
    figure.set_layout_engine("none")
    axes.set_position((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0), aspect="equal")
    axes.set_axis_off()
    for row, top, groups in ((upper, UPPER, UPPER_GROUPS), (lower, LOWER, LOWER_GROUPS)):
        for first, last, name, colour in groups:
            _band(axes, first, last, top, name, colour)
        for box in row:
            _box(axes, run, box, top)
        for box in row[1:]:
            x, y = LEFT + box.column * PITCH, top + TALL / 2
            arrow(axes, [(x - PITCH + SIDE + 0.01, y), (x - 0.01, y)])
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
    full = len(encoder.fullatt_block_indexes) if run.windowed else encoder.depth
    kinds = f"{encoder.depth} blocks, all\nfull attention"
    reordered = ("no windows:\nmerge order", run.shape("visual.patch_embed"), "visual.patch_embed")
    if run.windowed:
        kinds = f"blocks: {full} full,\n{encoder.depth - full} windowed"
        reordered = (
            "reorder into\nwindows",
            run.shape("visual.window_index"),
            "visual.window_index",
        )
    name = f"visual.blocks.0\N{EN DASH}{encoder.depth - 1}"
    tokens = run.shape("visual.merger")
    last = "back to raster\norder" if run.windowed else "image tokens,\nraster order"
    return [
        Box(0, "image", f"{wide} x {high}", "RGB", icons.thumbnail),
        Box(1, f"smart_resize:\nmultiples of {encoder.patch_size * merge}", resized, "image.resize",
            icons.gridded),
        Box(2, "normalise,\npatchify", run.shape("pixel_values"), "pixel_values", icons.exploded),
        Box(3, "patch\nembedding", run.shape("visual.patch_embed"), "visual.patch_embed",
            icons.embedded),
        Box(4, *reordered, icons.window_path),
        Box(5, kinds, run.shape("visual.blocks.0"), name, icons.encoder_masks),
        Box(6, f"merger: {merge} x {merge}\npatches to 1", tokens, "visual.merger", icons.merging),
        Box(7, last, run.shape("visual"), "visual", icons.raster_path),
    ]  # fmt: skip


def _text_path(run: Run, question: str) -> list[Box]:
    text, image = run.config.text, int(np.count_nonzero(run.media))
    heads = f"{text.num_attention_heads} query, {text.num_key_value_heads} KV heads"
    layers = f"{text.num_hidden_layers} decoder layers: causal attention\n({heads}) and MLP"
    answer = "".join(run.words).strip()
    name = f"model.layers.0\N{EN DASH}{text.num_hidden_layers - 1}"
    asked = icons.wrapped(f"<image>\n“{question}”", 13, 5)
    return [
        Box(0, "messages in the\nchat template", f"{len(run.media)} tokens", "text", asked),
        Box(1, f"tokenizer: {image}\nplaceholders", run.shape("input_ids"), "input_ids", icons.ids),
        Box(2, "token\nembedding", run.shape("model.embed_tokens"), "model.embed_tokens",
            icons.looked_up),
        Box(3, "scatter image\ntokens", run.shape("model.inputs_embeds"), "model.inputs_embeds",
            icons.scattered),
        Box(4, layers, run.shape("model.layers.0"), name, icons.decoder, 2),
        Box(6, "RMSNorm,\nLM head", run.shape("lm_head"), "model.norm, lm_head", icons.logits),
        Box(7, "argmax: the\nnext token", f"{len(run.words)} tokens", "generated",
            icons.wrapped(f"“{answer}”", 16, 6)),
    ]  # fmt: skip


def _box(axes: Axes, run: Run, box: Box, top: float) -> None:
    left, wide = LEFT + box.column * PITCH, SIDE + (box.columns - 1) * PITCH
    frame = FancyBboxPatch((left, top), wide, TALL, boxstyle="round,pad=0,rounding_size=0.07",
                           facecolor=PAPER, edgecolor=INK, linewidth=0.9)  # fmt: skip
    axes.add_patch(frame)
    middle = left + wide / 2
    say(axes, middle, top + 0.215, box.title, size=8, weight="bold", linespacing=1.0)
    box.icon(axes, run, (left + 0.12, left + wide - 0.12, top + 0.42, top + TALL - 0.42))
    say(axes, middle, top + TALL - 0.29, box.shape, size=8.6)
    small = 7.2 if len(box.name) <= 16 or box.columns > 1 else 6.6
    say(axes, middle, top + TALL - 0.11, box.name, size=small, family="monospace", color="#333333")


def _band(axes: Axes, first: int, last: int, top: float, name: str, colour: str) -> None:
    """A tinted area behind the boxes of a part of the model, its name in a corner."""
    left, right = LEFT + first * PITCH - 0.08, LEFT + last * PITCH + SIDE + 0.08
    pale = 1 - 0.33 * (1 - np.array(to_rgb(colour)))
    shape = FancyBboxPatch(
        (left, top - 0.26), right - left, TALL + 0.36, facecolor=pale, edgecolor="none",
        boxstyle="round,pad=0,rounding_size=0.1", zorder=0,
    )  # fmt: skip
    axes.add_patch(shape)
    say(axes, left + 0.1, top - 0.13, name, size=9, ha="left", style="italic")


# ------------------------------------------------------------------ between and around the rows


def _image_tokens(axes: Axes, run: Run) -> None:
    """From the end of the image path down to the placeholders."""
    x, to, y = LEFT + 7 * PITCH + SIDE / 2, LEFT + 3 * PITCH + SIDE / 2, UPPER + TALL + 0.26
    arrow(axes, [(x, UPPER + TALL), (x, y), (to, y), (to, LOWER)], COLOURS[0])
    said = f"{np.count_nonzero(run.media)} image tokens replace the placeholders' embeddings"
    box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5}
    say(axes, (x + to) / 2, y, said, size=8.4, color=COLOURS[0], bbox=box, zorder=4)


def _note(axes: Axes, left: float, top: float, wide: float, lines: str, name: str) -> None:
    look: dict[str, Any] = {"facecolor": PAPER, "edgecolor": INK, "lw": 0.9, "ls": "--"}
    look |= {"boxstyle": "round,pad=0,rounding_size=0.07", "zorder": 2}
    axes.add_patch(FancyBboxPatch((left, top), wide, 0.46, **look))
    say(axes, left + wide / 2, top + 0.15, lines, size=8)
    say(axes, left + wide / 2, top + 0.34, name, size=7.2, family="monospace", color="#333333")


def _rotary(axes: Axes, run: Run) -> None:
    """The angles of the encoder, above its blocks."""
    middle = LEFT + 5 * PITCH + SIDE / 2
    name = f"visual.rotary_angles {run.shape('visual.rotary_angles')}"
    _note(axes, middle - 1.35, 0.36, 2.7, "2-D RoPE: row and column rotate q and k", name)
    arrow(axes, [(middle, 0.82), (middle, UPPER)])


def _positions_and_cache(axes: Axes, run: Run) -> None:
    """Positions and cache of the decoder, below its layers."""
    top, left = LOWER + TALL + 0.2, LEFT + 4 * PITCH
    name = f"model.position_ids {run.shape('model.position_ids')}"
    _note(axes, left - 1.3, top, 2.3, "mRoPE: time, height, width", name)
    arrow(axes, [(left + 0.45, top), (left + 0.45, LOWER + TALL)])
    text, held = run.config.text, list(np.shape(run.first("model.layers.0.self_attn.k")))
    name = f"{text.num_hidden_layers} layers x 2 x {held}"
    _note(axes, left + 1.1, top, 2.1, "KV cache: grows by 1 per token", name)
    for x, end, begin in ((1.55, top, LOWER + TALL), (1.95, LOWER + TALL, top)):
        arrow(axes, [(left + x, begin), (left + x, end)])


def _loop(axes: Axes, run: Run) -> None:
    """The decode loop: from the last box back to the embedding."""
    last, to, y = LEFT + 7 * PITCH + SIDE / 2, LEFT + 2 * PITCH + SIDE / 2, HEIGHT - 0.17
    arrow(axes, [(last, LOWER + TALL), (last, y), (to, y), (to, LOWER + TALL)], COLOURS[5])
    tokens, positions = len(run.media), run.first("model.position_ids")
    delta = int(np.max(positions)) + 1 - tokens
    said = f"decode loop: one token at a time, at position index + rope_delta ({delta:+d})"
    box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5}
    say(axes, (last + to) / 2, y, said.replace("-", "\N{MINUS SIGN}") if delta < 0 else said,
         size=8.4, color="#b04a00", bbox=box, zorder=4)  # fmt: skip
