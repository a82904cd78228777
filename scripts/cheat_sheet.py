"""The cheat sheet on two A4 pages: letters, shapes, orders, formulas, sizes, names.

Drawn and saved by ``scripts.refresh_figures``. Every number comes from the package: letters from
``dims.GLOSSARY``, sizes from ``presets``, shapes and parameters from ``shapes.walk``, worked
examples from the functions that they are about.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from tinyqwenvl import dims, image, position, presets, vision
from tinyqwenvl.shapes import walk
from tinyqwenvl.shapes.report import short
from tinyqwenvl.viz.style import COLOURS, INK, PAPER, drawing

A4 = (8.27, 11.69)
LEFT, RIGHT = 0.5, 7.77
EXAMPLE = (756, 476)  # width, height: the image of the worked examples
MODEL = "qwen2.5-vl-3b"
MAX_PIXELS = 307200
MONO = "monospace"

SHAPES = (  # stage, its shape in letters, who computes it
    ("image.resize", "1 H W 3", "image.smart_resize, resize"),
    ("pixel_values", "N P", "image.patchify"),
    ("image_grid_thw", "I 3", "image.preprocess"),
    ("input_ids", "S", "chat.render, tokenizer"),
    ("visual.patch_embed", "N D", "vision.embed_patches"),
    ("visual.window_index", "M", "vision.window_index"),
    ("visual.rotary_angles", "N d/2", "vision.rotary_angles"),
    ("visual.blocks.0.attn.qkv", "N 3D", "vision.attention"),
    ("visual.blocks.0.attn.q", "A N d", "vision.attention"),
    ("visual.blocks.0.attn.key_ranges", "N 2", "nn.segment_key_ranges"),
    ("visual.blocks.0", "N D", "vision.vision_block"),
    ("visual.merger", "M E", "vision.merge"),
    ("visual", "M E", "vision.vision_encoder"),
    ("model.embed_tokens", "S D", "decoder.embed"),
    ("model.inputs_embeds", "S D", "decoder.scatter"),
    ("model.position_ids", "3 S", "position.rope_index"),
    ("model.layers.0.self_attn.q", "A S d", "decoder.attention"),
    ("model.layers.0.self_attn.k", "B S d", "decoder.attention"),
    ("model.layers.0", "S D", "decoder.decoder_layer"),
    ("model.norm", "S D", "decoder.decode"),
    ("lm_head", "S V", "decoder.logits (last position)"),
)

NAMES = (  # ours, in Transformers (5.24), what it does
    ("image.smart_resize", "smart_resize", "size at which an image is read"),
    ("image.preprocess", "Qwen2VLImageProcessor", "resize, normalise, patchify"),
    ("video.sample_hf", "Qwen2VLVideoProcessor.sample_frames", "choice of frames"),
    ("chat.render, expand", "Qwen2_5_VLProcessor", "prompt with placeholders"),
    ("vision.patch_positions", "get_vision_position_ids", "(row, column) of every patch"),
    ("vision.frame_seqlens", "get_vision_cu_seqlens", "boundaries of frames"),
    ("vision.window_index", "get_vision_window_index", "window order and boundaries"),
    ("vision.embed_patches", "Qwen2_5_VisionPatchEmbed", "3-D convolution"),
    ("vision.rotary_angles", "Qwen2_5_VLVisionRotaryEmbedding", "2-D RoPE"),
    ("vision.reorder_groups", "permute_input_for_window_attn", "to window order"),
    ("vision.attention", "Qwen2_5_VLVisionAttention", "attention of the encoder"),
    ("vision.vision_block", "Qwen2_5_VLVisionBlock", "one block of the encoder"),
    ("vision.merge", "Qwen2_5_VLPatchMerger", "four patches to one token"),
    ("vision.vision_encoder", "Qwen2_5_VisionTransformerPretrainedModel", "the encoder"),
    ("position.rope_index", "get_rope_index", "mRoPE positions, rope delta"),
    ("position.mrope_cos_sin", "Qwen2_5_VLRotaryEmbedding", "cosines and sines"),
    ("decoder.scatter", "masked_scatter", "image tokens to placeholders"),
    ("nn.rotate", "apply_rotary_pos_emb", "rotate q and k"),
    ("nn.rms_norm", "Qwen2_5_VLRMSNorm", "RMSNorm"),
    ("decoder.attention", "Qwen2_5_VLAttention", "grouped-query attention"),
    ("decoder.decoder_layer", "Qwen2_5_VLDecoderLayer", "one decoder layer"),
    ("decoder.decode", "Qwen2_5_VLTextModel", "all layers and the last norm"),
    ("nn.KVCache", "DynamicCache", "keys and values of earlier tokens"),
)


# ------------------------------------------------------------------ numbers


def example():
    """The walk of the worked examples."""
    return walk(presets.preset(MODEL), [EXAMPLE], max_pixels=MAX_PIXELS)


def shape_rows() -> list[tuple[str, str, str, str]]:
    """Stage, letters, shape in the example, function."""
    found = example()
    return [
        (name, f"[{', '.join(letters.split())}]", str(list(found.row(name).shape)), function)
        for name, letters, function in SHAPES
    ]


def size_rows() -> list[list[str]]:
    """The published sizes, a column each; the first row is the head."""
    configs = {name: presets.preset(name) for name in presets.PRESETS}
    walks = {name: walk(config, [], 1) for name, config in configs.items()}
    rows: list[tuple[str, Any]] = [
        ("decoder: hidden size D", lambda c, w: c.text.hidden_size),
        ("layers", lambda c, w: c.text.num_hidden_layers),
        ("query heads A / KV heads B", lambda c, w: f"{c.text.num_attention_heads} / "
         f"{c.text.num_key_value_heads}"),
        ("head dimension d", lambda c, w: c.text.head_dim),
        ("MLP size F", lambda c, w: c.text.intermediate_size),
        ("vocabulary V", lambda c, w: c.text.vocab_size),
        ("LM head", lambda c, w: "tied" if c.tie_word_embeddings else "own"),
        ("encoder: D / MLP size F", lambda c, w: f"{c.vision.hidden_size} / "
         f"{c.vision.intermediate_size}"),
        ("blocks / with full attention", lambda c, w: f"{c.vision.depth} / "
         f"{len(c.vision.fullatt_block_indexes) or c.vision.depth}"),
        ("parameters, encoder", lambda c, w: short(w.parameters["vision"])),
        ("parameters, total", lambda c, w: short(w.parameters["total"])),
        ("weights in bfloat16", lambda c, w: f"{short(2 * w.parameters['total'])}B"),
        ("KV cache, bytes per token", lambda c, w: f"{2 * w.cache['token']:,}"),
    ]  # fmt: skip
    return [
        ["", *(n.replace("qwen", "").upper() for n in configs)],
        *([title, *(str(of(configs[n], walks[n])) for n in configs)] for title, of in rows),
    ]


def decoder_layer_parameters(config: Any) -> int:
    """Weights of one decoder layer, by the formula of the sheet."""
    t = config.text
    heads = (t.num_attention_heads + 2 * t.num_key_value_heads) * t.head_dim
    attention = heads * (t.hidden_size + 1) + t.num_attention_heads * t.head_dim * t.hidden_size
    return attention + 3 * t.hidden_size * t.intermediate_size + 2 * t.hidden_size


def vision_block_parameters(config: Any) -> int:
    """Weights of one block of the encoder, by the formula of the sheet."""
    v = config.vision
    d, f = v.hidden_size, v.intermediate_size
    attention = 4 * d * d + 4 * d
    if config.model_type == "qwen2_5_vl":
        return attention + 3 * d * f + 2 * f + d + 2 * d
    return attention + 2 * d * f + f + d + 4 * d


def formulas() -> list[tuple[str, list[str]]]:
    """Title and lines of each formula, with a worked example."""
    config, found = presets.preset(MODEL), example()
    width, height = EXAMPLE
    high, wide = image.smart_resize(height, width, 28, 56 * 56, MAX_PIXELS)
    t, h, w = found.images[0]["grid_thw"]
    tokens, text = found.tokens["image"], 15
    ids = np.array([0] * text + [config.image_token_id] * tokens + [0] * 10)
    positions, delta = position.rope_index(ids, config, np.array([[t, h, w]]))
    text_config = config.text
    each = 2 * text_config.num_hidden_layers * text_config.num_key_value_heads
    return [
        ("smart_resize", [
        "H, W = round(h / 28) * 28, round(w / 28) * 28      ties to the even multiple",
        "if H * W > max_pixels:  s = sqrt(h * w / max_pixels);  floor(h / s / 28) * 28, w too",
        "if H * W < min_pixels:  s = sqrt(min_pixels / (h * w));  ceil(h * s / 28) * 28, w too",
        "refused: a side over 200 times the other.   max_pixels, min_pixels: area of the result",
        f"{width} x {height}, max_pixels {MAX_PIXELS:,} -> {wide} x {high}",
        ]),
        ("patches and tokens", [
        "grid (t, h, w) = (frames / 2, H / 14, W / 14);  N = t * h * w;  M = N / 4",
        f"{wide} x {high}: grid ({t}, {h}, {w}), N = {t * h * w}, M = {tokens};  "
        f"one token = 28 x 28 pixels",
        ]),
        ("RoPE", [
        "f_j = theta ** (-2j / r),  j = 0 .. r/2 - 1;  q' = q * cos(a) + rotate_half(q) * sin(a)",
        "rotate_half(x) = concat(-x[d/2:], x[:d/2]):  dimensions i and i + d/2 are one 2-D pair",
        "2-D (encoder): r = d/2, theta 10,000;  a = concat(row * f, column * f), repeated once",
        f"mRoPE (decoder): r = d, theta {text_config.rope_theta:,.0f};  a_j = p[axis(j)] * f_j;  "
        f"sections {list(text_config.mrope_section)}: time, height, width",
        ]),
        ("mRoPE positions and rope delta", [
        "text: p = (n, n, n).  image at n: (n, n + row, n + column), row < h/2, column < w/2",
        "Qwen2.5-VL video: time = n + floor(frame pair * seconds per pair * tokens_per_second);"
        " Qwen2-VL: n + frame pair",
        "after an image: n = largest position + 1.   rope_delta = largest position + 1 - S",
        f"{text} text + {tokens} image + 10 text tokens: largest {int(positions.max())}, "
        f"S = {len(ids)}, rope_delta = {delta};  next token at S + rope_delta = {len(ids) + delta}",
        ]),
        ("parameters", [
        f"{'decoder layer: (A + 2B) d (D + 1) + A d D + 3 D F + 2 D':66}"
        f"{MODEL}: {decoder_layer_parameters(config):,}",
        f"{'encoder block, Qwen2.5-VL: 4 D D + 4 D + 3 D F + 2 F + D + 2 D':66}"
        f"{MODEL}: {vision_block_parameters(config):,}",
        f"{'encoder block, Qwen2-VL: 4 D D + 4 D + 2 D F + F + D + 4 D':66}"
        f"qwen2-vl-2b: {vision_block_parameters(presets.preset('qwen2-vl-2b')):,}",
        ]),
        ("KV cache and FLOPs", [
        f"cache: 2 * layers * B * d values per token = {each * text_config.head_dim:,} values "
        f"in {MODEL} ({2 * each * text_config.head_dim / 1024:g} KiB in bfloat16)",
        "matrix product [S, D] by [D, E]: 2 S D E;   attention: 4 d * allowed pairs per head",
        f"the example to its first token: encoder {short(found.flops['vision'])}, "
        f"decoder {short(found.flops['decoder'])}, lm_head {short(found.flops['lm_head'])};  "
        f"each new token {short(found.flops['new_token'])}",
        ]),
    ]  # fmt: skip


# ------------------------------------------------------------------ pages


def _page(number: int, title: str, alt: str):
    figure, axes = drawing("", alt, size=A4)
    figure.suptitle("")
    figure.set_layout_engine("none")
    axes.set_position((0, 0, 1, 1))
    axes.set(xlim=(0, A4[0]), ylim=(A4[1], 0))
    axes.set_axis_off()
    _text(axes, LEFT, 0.5, "Qwen2-VL and Qwen2.5-VL: cheat sheet", 15, weight="bold")
    _text(axes, RIGHT, 0.5, f"{title}  ({number} of 2)", 9, ha="right")
    _text(axes, RIGHT, A4[1] - 0.3, "tinyqwenvl · drawn by python -m scripts.refresh_figures", 7,
          ha="right", color="#555555")  # fmt: skip
    return figure, axes


def _text(axes, x, y, text, size=7.2, **look):
    look = {"ha": "left", "va": "center_baseline", "color": INK} | look
    axes.text(x, y, text, fontsize=size, parse_math=False, **look)


def _heading(axes, y: float, text: str, note: str = "") -> float:
    axes.add_patch(Rectangle((LEFT - 0.06, y - 0.12), RIGHT - LEFT + 0.12, 0.24,
                             facecolor=COLOURS[0], linewidth=0))  # fmt: skip
    _text(axes, LEFT, y, text, 10, weight="bold", color=PAPER)
    _text(axes, RIGHT, y, note, 7.5, ha="right", color=PAPER)
    return y + 0.24


def _table(axes, y: float, rows: Sequence[Sequence[str]], stops: Sequence[float],
           fonts: Sequence[str], step: float = 0.148, size: float = 7.2,
           sides: Sequence[str] = ()) -> float:  # fmt: skip
    """Rows of text at the columns ``stops``, every other one shaded."""
    for number, row in enumerate(rows):
        if number % 2:
            axes.add_patch(Rectangle((LEFT - 0.06, y - step / 2), RIGHT - LEFT + 0.12, step,
                                     facecolor="#eef3f7", linewidth=0, zorder=0))  # fmt: skip
        for column, (x, cell) in enumerate(zip(stops, row, strict=True)):
            side = sides[column] if sides else "left"
            weight = "normal" if number else "bold"
            _text(axes, x, y, cell, size, family=fonts[column], ha=side, weight=weight)
        y += step
    return y


def _letters(axes, y: float) -> float:
    y = _heading(axes, y, "Letters", "one letter per dimension in every signature (dims.GLOSSARY)")
    items = list(dims.GLOSSARY.items())
    half, lowest = -(-len(items) // 2), y
    for column, part in enumerate((items[:half], items[half:])):
        x, at = LEFT + column * 3.72, y
        for letter, meaning in part:
            lines = textwrap.wrap(meaning, 58)
            _text(axes, x, at, letter, 8, weight="bold", family=MONO)
            for line in lines:
                _text(axes, x + 0.2, at, line, 7)
                at += 0.122
            at += 0.026
        lowest = max(lowest, at)
    return lowest + 0.14


def _shapes(axes, y: float) -> float:
    width, height = EXAMPLE
    note = f"{width} x {height} pixels in {MODEL}, max_pixels {MAX_PIXELS:,}, 49 text tokens"
    y = _heading(axes, y, "Shapes", note)
    rows = [("stage, as in the checkpoint", "letters", "example", "function"), *shape_rows()]
    return _table(axes, y, rows, (LEFT, 3.05, 4.1, 5.6), (MONO, MONO, MONO, MONO)) + 0.17


def _grid(axes, x: float, y: float, cell: float, numbers: np.ndarray, groups: np.ndarray) -> None:
    """Numbered cells in the colours of their groups, with a frame around each group."""
    for (i, j), number in np.ndenumerate(numbers):
        colour = 1 - 0.4 * (1 - np.array(to_rgb(COLOURS[int(groups[i, j]) % 7])))
        axes.add_patch(Rectangle((x + j * cell, y + i * cell), cell, cell, facecolor=colour,
                                 edgecolor=PAPER, linewidth=0.6))  # fmt: skip
        _text(axes, x + (j + 0.5) * cell, y + (i + 0.5) * cell, str(number), 7, ha="center")
    for group in np.unique(groups):
        rows, columns = np.nonzero(groups == group)
        corner = (x + columns.min() * cell, y + rows.min() * cell)
        axes.add_patch(Rectangle(corner, (np.ptp(columns) + 1) * cell, (np.ptp(rows) + 1) * cell,
                                 fill=False, edgecolor=INK, linewidth=1))  # fmt: skip


def orders() -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """(numbers, groups) of patches in raster and in merge order, of tokens in window order."""
    rows, columns = np.indices((4, 8))
    groups = (rows // 2) * 4 + columns // 2
    merge = np.zeros((4, 8), int)
    places = vision.patch_positions(np.array([[1, 4, 8]]), 2)
    merge[places[:, 0], places[:, 1]] = np.arange(32)
    index, ends = vision.window_index(np.array([[1, 12, 16]]), presets.preset(MODEL).vision)
    window = np.repeat(np.arange(len(ends) - 1), np.diff(ends) // 4)
    inverse = np.argsort(index)
    return (
        (rows * 8 + columns, groups),
        (merge, groups),
        (inverse.reshape(6, 8), window[inverse].reshape(6, 8)),
    )


def _orders(axes, y: float) -> float:
    y = _heading(axes, y, "Orders", "the number in a cell is its index in the sequence") + 0.1
    captions = (
        "raster order of patches: row by row\nframes: one merge group (2 x 2) each",
        "merge order: the patches of a merge group\nare consecutive (pixel_values, blocks)",
        "window order of merged tokens:\nwindows of 4 x 4 tokens, cut at the edges",
    )
    cell, x = 0.26, LEFT
    for (numbers, groups), caption in zip(orders(), captions, strict=True):
        _grid(axes, x, y + 0.28, cell, numbers, groups)
        for line, words in enumerate(caption.split("\n")):
            _text(axes, x, y + 0.02 + 0.13 * line, words, 7.2)
        x += 8 * cell + 0.51
    low = y + 0.28 + 4 * cell + 0.14
    for line, words in enumerate((
        "Encoder input: merge order -> reorder_groups(index) -> window order",
        "(Qwen2.5-VL; Qwen2-VL keeps merge order). After the merger:",
        "restore_order = take(argsort(index)) -> raster order of tokens.",
    )):  # fmt: skip
        _text(axes, LEFT, low + 0.14 * line, words, 7.2, weight="bold" if not line else "normal")
    return y + 0.28 + 6 * cell + 0.3


def _sizes(axes, y: float) -> float:
    y = _heading(axes, y, "Sizes of the published models", "tinyqwenvl shapes --presets")
    rows = [[cell.replace("-VL-", "-VL ") for cell in row] for row in size_rows()]
    stops = (LEFT, *np.linspace(3.05, RIGHT, 7).tolist())
    return _table(axes, y, rows, stops, ("sans-serif",) * 8, sides=("left", *["right"] * 7)) + 0.17


def _formulas(axes, y: float, which: slice) -> float:
    y = _heading(axes, y, "Formulas", "sizes in pixels; D, F, A, B, d as in the tables")
    for title, lines in formulas()[which]:
        _text(axes, LEFT, y, title, 7.8, weight="bold")
        for line in lines:
            y += 0.142
            _text(axes, LEFT + 0.12, y, line, 7, family=MONO)
        y += 0.185
    return y + 0.1


def _names(axes, y: float) -> float:
    y = _heading(axes, y, "Names", "ours, and what Transformers 5.24 calls it")
    rows = [("tinyqwenvl", "Transformers", "what it does"), *NAMES]
    return _table(axes, y, rows, (LEFT, 2.3, 5.35), (MONO, MONO, "sans-serif"))


def pages() -> list[Any]:
    """Both pages, as figures."""
    found = example()
    (wide, high), tokens = found.images[0]["resized"], found.tokens
    first, axes = _page(1, "letters, shapes, orders", (
        f"Page 1 of the cheat sheet: the {len(dims.GLOSSARY)} dimension letters; {len(SHAPES)} "
        f"stages with their shapes for an image of {wide} x {high} pixels, {tokens['image']} image "
        f"tokens and {tokens['total']} tokens in {MODEL}; raster, merge and window order as grids."
    ))  # fmt: skip
    y = _orders(axes, _shapes(axes, _letters(axes, 0.85)))
    _formulas(axes, y, slice(0, 2))
    second, axes = _page(2, "sizes, formulas, names", (
        f"Page 2 of the cheat sheet: sizes of the {len(presets.PRESETS)} published models; "
        "formulas for smart_resize, tokens, RoPE, mRoPE, the rope delta, parameters and KV cache; "
        f"{len(NAMES)} functions with their names in Transformers."
    ))  # fmt: skip
    y = _formulas(axes, _sizes(axes, 0.85), slice(2, None))
    _names(axes, y)
    return [first, second]
