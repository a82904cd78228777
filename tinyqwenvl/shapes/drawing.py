"""Draw a shape walk as SVG: stages as boxes, and the shares of parameters and FLOPs.

The LM head is drawn for one position, as decoding needs it and as :class:`~.walk.Walk` counts it.
"""

from __future__ import annotations

from html import escape

from .report import short
from .walk import Walk

# Okabe and Ito's colours, distinct for colour-blind readers; dark text is legible on all of them.
PIXELS, VISION, WORDS, DECODER, HEAD = "#f0e442", "#56b4e9", "#cccccc", "#e69f00", "#cc99bb"
WIDTH, MARGIN, BOX, GAP = 1280, 40, 176, 29
FONT = "font-family='Helvetica, Arial, sans-serif'"


def as_svg(name: str, found: Walk) -> str:
    """One self-contained SVG of 1280 x 720, on white."""
    config, tokens = found.config, found.tokens
    shape = {row.name: list(row.shape) for row in found.rows}
    top = [("text of the prompt", f"{tokens['text']} tokens", "", WORDS)]
    if found.images:
        sizes = [f"{p['size'][0]} x {p['size'][1]}" for p in found.images]
        read = [f"{p['resized'][0]} x {p['resized'][1]}" for p in found.images]
        blocks = f"{config.vision.depth} vision blocks"
        full = len(config.vision.fullatt_block_indexes)
        windowed = config.vision.depth - full
        attention = f"{windowed} windowed, {full} full" if windowed else "full attention in all"
        vision = config.vision
        patch, merge = vision.patch_size, vision.spatial_merge_size
        cut = f"{vision.temporal_patch_size} frames x {patch} x {patch} x 3"
        top = [
            (_plural(len(sizes), "image"), _some(sizes), "width x height", PIXELS),
            ("resized", _some(read), f"sides: multiples of {patch * merge}", PIXELS),
            ("patches", str(shape["pixel_values"]), cut, PIXELS),
            (blocks, str(shape["visual.patch_embed"]), attention, VISION),
            ("merger", str(shape["visual.merger"]), f"{merge} x {merge} patches per token", VISION),
            ("image tokens", str(shape["visual"]), "raster order again", VISION),
        ]
    bottom = [
        ("ids", str(tokens["total"]), f"{tokens['image']} image + {tokens['text']} text", WORDS),
        ("embeddings", str(shape["model.embed_tokens"]), "image tokens scattered", WORDS),
        (f"{config.text.num_hidden_layers} decoder layers", str(shape["model.norm"]),
         f"{config.text.num_attention_heads} heads, {config.text.num_key_value_heads} KV heads",
         DECODER),
        ("lm_head", str([1, *shape["lm_head"][1:]]), "logits of the last token", HEAD),
    ]  # fmt: skip
    left, right = (MARGIN + i * (BOX + GAP) + BOX // 2 for i in (1, 5))
    about = f"{tokens['total']} tokens; {found.parameters['total']:,} parameters"
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} 720' {FONT} role='img'>",
        f"<title>{escape(name)}: every stage's shape</title>",
        f"<desc>{escape('; '.join(f'{t} {s}' for t, s, *_ in top + bottom))}</desc>",
        f"<rect width='{WIDTH}' height='720' fill='white'/>",
        _text(MARGIN, 62, name, 30, "bold"),
        _text(MARGIN, 94, about, 18),
        *_boxes(top, 130),
        *_boxes(bottom, 310),
        *([_arrow(f"M{right} 260v24H{left}v22")] if found.images else []),
        *_bar("parameters", found.parameters, 500, {"vision": VISION, "decoder": DECODER,
                                                   "lm_head": HEAD}),
        *_bar("FLOPs", {"vision": found.flops["vision"], "decoder": found.flops["decoder"],
                        "lm_head": found.flops["lm_head"]}, 590,
              {"vision": VISION, "decoder": DECODER, "lm_head": HEAD}),
        _text(MARGIN, 696, "FLOPs to the first new token: lm_head for the last position only; one "
              "multiply-add is 2; matrix products and attention only.", 15),
        "</svg>",
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def _plural(count: int, what: str) -> str:
    return what if count == 1 else f"{count} {what}s"


def _some(sizes: list[str]) -> str:
    return sizes[0] if len(sizes) == 1 else f"{sizes[0]}, ..."


def _text(x: float, y: float, text: str, size: int, weight: str = "normal", room: int = 0) -> str:
    """A line of text, smaller where it would not fit into ``room``."""
    if room:
        size = min(size, int(room / (0.54 * max(len(text), 1))))
    return (
        f"<text x='{x:g}' y='{y:g}' font-size='{size}' font-weight='{weight}' fill='#111'>"
        f"{escape(text)}</text>"
    )


def _arrow(path: str) -> str:
    """A line along ``path`` with a head at its end, which must point right or down."""
    head = "m-7 -7l7 7l7 -7" if "v" in path else "m-7 -7l7 7l-7 7"
    return f"<path d='{path}{head}' fill='none' stroke='#111' stroke-width='2'/>"


def _boxes(boxes: list[tuple[str, str, str, str]], y: int) -> list[str]:
    parts = []
    for i, (title, shape, remark, colour) in enumerate(boxes):
        x = MARGIN + i * (BOX + GAP)
        parts.append(f"<rect x='{x}' y='{y}' width='{BOX}' height='130' rx='10' fill='{colour}'/>")
        for text, size, down, weight in (
            (title, 18, 36, "bold"), (shape, 18, 72, "normal"), (remark, 14, 106, "normal")
        ):  # fmt: skip
            parts.append(_text(x + 10, y + down, text, size, weight, BOX - 20))
        if i:
            parts.append(_arrow(f"M{x - GAP + 4} {y + 65}h{GAP - 8}"))
    return parts


def _bar(title: str, amounts: dict[str, int], y: int, colours: dict[str, str]) -> list[str]:
    """One bar in which each part is as long as its share; its legend below."""
    total = sum(amounts[name] for name in colours)
    parts, x = [_text(MARGIN, y, f"{title}: {short(total)}", 18, "bold")], float(MARGIN)
    for i, (name, colour) in enumerate(colours.items()):
        wide = (WIDTH - 2 * MARGIN) * amounts[name] / total
        parts.append(
            f"<rect x='{x:.1f}' y='{y + 12}' width='{wide:.1f}' height='24' fill='{colour}'/>"
        )
        at = MARGIN + 300 * i
        parts.append(f"<rect x='{at}' y='{y + 44}' width='14' height='14' fill='{colour}'/>")
        share = f"{name}: {short(amounts[name])}, {100 * amounts[name] / total:.1f} %"
        parts.append(_text(at + 20, y + 57, share if amounts[name] else f"{name}: tied", 15))
        x += wide
    return parts
