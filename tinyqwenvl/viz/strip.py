"""The "you are here" strip: the pipeline, with the topic of a notebook highlighted."""

from __future__ import annotations

from typing import Any

from matplotlib.colors import to_rgb
from matplotlib.patches import Polygon

from .style import COLOURS, INK, PAPER, Axes, Drawing, drawing

PARTS = {  # part of the model: its stages in order, as label of the strip
    "image": {"video": "video", "resize": "resize", "patches": "patches"},
    "vision": {
        "patch_embed": "patch\nembed",
        "rope": "2-D\nRoPE",
        "windows": "windows",
        "attention": "attention",
        "merger": "merger",
    },
    "prompt": {"tokens": "chat,\ntokens"},
    "decoder": {"mrope": "mRoPE", "layers": "layers,\ncache"},
    "answer": {"decoding": "decoding", "boxes": "boxes"},
}
NAMES = {"image": "image or video", "vision": "vision encoder"}
TINTS = {"image": "#f0e442", "vision": "#56b4e9", "prompt": "#999999", "decoder": "#e69f00",
         "answer": "#cc79a7"}  # fmt: skip
STAGES = tuple(f"{part}.{stage}" for part, stages in PARTS.items() for stage in stages)

# Topics that concern several stages: what is highlighted.
TOPICS = {
    "model": STAGES,
    "video": ("image.video", "image.patches", "decoder.mrope"),
    "editions": ("image.video", "vision.windows", "vision.attention", "decoder.mrope"),
    "oracle": STAGES,
    "training": STAGES,
}

# Notebook -> what it shows at its head.
NOTEBOOKS = {
    "00": "model",
    "01": "image.resize",
    "02": "image.patches",
    "03": "vision.patch_embed",
    "04": "vision.rope",
    "05": "vision.windows",
    "06": "vision.attention",
    "07": "vision.merger",
    "08": "prompt.tokens",
    "09": "decoder.mrope",
    "10": "decoder.layers",
    "11": "answer.decoding",
    "12": "video",
    "13": "editions",
    "14": "oracle",
    "15": "training",
    "16": "answer.decoding",
    "17": "answer.boxes",
}


def here(name: str) -> Drawing:
    """The pipeline as a strip, with a stage (:data:`STAGES`) or topic (:data:`TOPICS`) highlighted.

    For the head of a notebook: ``viz.here("vision.windows")``; :data:`NOTEBOOKS` has the name that
    each notebook uses. Raises ValueError for other names.
    """
    if name not in STAGES and name not in TOPICS:
        raise ValueError(f"no stage or topic {name}: known are {', '.join([*STAGES, *TOPICS])}")
    lit = TOPICS.get(name, (name,))
    labels = {f"{part}.{stage}": " ".join(label.replace(",", " and").split())
              for part, stages in PARTS.items() for stage, label in stages.items()}  # fmt: skip
    what = "all stages" if lit == STAGES else ", ".join(labels[stage] for stage in lit)
    alt = (
        f"You are here: {what}, in the pipeline of {len(STAGES)} stages: "
        f"{', '.join(labels.values())}."
    )
    figure, axes = drawing("", alt, size=(7.5, 0.78))
    figure.suptitle("")
    figure.set_layout_engine("none")
    axes.set_position((0, 0, 1, 1))
    axes.set(xlim=(0, 7.5), ylim=(0.78, 0))
    axes.set_axis_off()
    gap = 0.1  # between parts
    lengths = {label: 6.5 + max(map(len, label.split("\n"))) for s in PARTS.values()
               for label in s.values()}  # fmt: skip
    unit = (7.5 - 0.1 - gap * (len(PARTS) - 1)) / sum(lengths.values())
    x = 0.05
    for part, stages in PARTS.items():
        middle = x + unit * sum(lengths[label] for label in stages.values()) / 2
        _write(axes, middle, 0.12, NAMES.get(part, part), 8, "italic")
        for stage, label in stages.items():
            _chevron(axes, x, unit * lengths[label], label, TINTS[part], f"{part}.{stage}" in lit)
            x += unit * lengths[label]
        x += gap
    return figure


def _chevron(axes: Axes, x: float, wide: float, label: str, tint: str, lit: bool) -> None:
    """A stage: strong and framed where the reader is, pale elsewhere."""
    tip, top, bottom = 0.06, 0.25, 0.73
    middle = (top + bottom) / 2
    right = x + wide - 0.03
    corners = [(x, top), (right - tip, top), (right, middle), (right - tip, bottom), (x, bottom),
               (x + tip, middle)]  # fmt: skip
    share = 1.0 if lit else 0.25
    face = tuple(1 - share * (1 - c) for c in to_rgb(COLOURS[0] if lit else tint))
    axes.add_patch(Polygon(corners, facecolor=face, edgecolor=INK if lit else "#999999",
                           linewidth=1.4 if lit else 0.6))  # fmt: skip
    _write(axes, x + (wide + 0.015) / 2, middle, label, 7, "normal", PAPER if lit else INK)


def _write(
    axes: Axes, x: float, y: float, text: str, size: float, style: str, colour: str = INK
) -> None:
    look: dict[str, Any] = {
        "ha": "center",
        "va": "center_baseline",
        "linespacing": 1.0,
        "style": style,
    }
    axes.text(x, y, text, fontsize=size, color=colour, **look)
