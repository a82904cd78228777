"""The stages that docs/spec.md names are those of a real trace."""

import re

import numpy as np
import pytest
from spec_page import SPEC, blocks, table

import tinyqwenvl
from scripts.random_checkpoint import random_image, tiny_config
from tinyqwenvl.checkpoint import weight_shapes
from tinyqwenvl.config import parse_config


def named():
    """Every row of the tables of stages; a row may name several."""
    rows = [row for _, block in blocks("stages") for row in table(block)]
    return [{**row, "name": name} for row in rows for name in re.findall(r"`(.*?)`", row["name"])]


def general(name):
    """A stage's name with the number of its block or layer as i."""
    return re.sub(r"(blocks|layers)\.\d+", r"\1.i", name)


@pytest.fixture(scope="module")
def seen(model):
    """A real trace: an image, a clip of two temporal grids, and text."""
    frames = [random_image(9 + i, 56, 84) for i in range(4)]
    content = [
        {"type": "text", "text": "a"},
        {"type": "image", "image": random_image(1, 118, 260)},
        {"type": "video", "video": frames, "fps": 1.5, "min_pixels": 3136, "max_pixels": 8000},
        {"type": "text", "text": "b"},
    ]
    with tinyqwenvl.trace() as stages:
        model.forward(model.prepare([{"role": "user", "content": content}]))
    found = {}
    for name, values in stages.items():
        found.setdefault(general(name), values)
    return found


def test_stages_are_those_of_a_trace(seen, family):
    rows = [row for row in named() if row["family"] in ("both", family)]
    names = [row["name"] for row in rows]
    assert len(set(names)) == len(names)
    assert set(names) == set(seen)


def test_shapes_and_formats_are_those_of_a_trace(seen, family, model):
    vision_config, text = model.config.vision, model.config.text
    t, h, w = seen["image_grid_thw"][0][0].tolist()
    shared = {"t": t, "h": h, "w": w, "H": 14 * h, "W": 14 * w, "C": 3, "F": 1, "I": 1, "J": 1}
    shared |= {"N": t * h * w, "M": t * h * w // 4, "P": 1176, "S": len(seen["input_ids"][0])}
    shared |= {"Q": len(seen["pixel_values_videos"][0]), "V": text.vocab_size}
    heads, keys = text.num_attention_heads, text.num_key_value_heads
    decoder = {"D": text.hidden_size, "A": heads, "B": keys, "d": text.head_dim}
    decoder |= {"m": text.intermediate_size, "E": text.hidden_size}
    heads = vision_config.num_heads
    vision_encoder = {
        "D": vision_config.hidden_size,
        "A": heads,
        "d": vision_config.hidden_size // heads,
    }
    vision_encoder |= {"m": vision_config.intermediate_size, "E": vision_config.out_hidden_size}
    for row in named():
        name = row["name"]
        if row["family"] not in ("both", family):
            continue
        # patches of an image: the clip is read before it, so its are the last
        value = np.asarray(seen[name][-1 if name == "image.nine_dimensions" else 0])
        assert value.dtype.name == row["dtype"], name
        sizes = shared | (vision_encoder if name.startswith("visual") else decoder)
        axes = row["shape"].strip("[]").split(", ")
        assert len(axes) == value.ndim, name
        for axis, size in zip(axes, value.shape, strict=True):
            free = axis == "G" or (name == "image.rgb" and axis in ("height", "width"))
            assert free or eval(axis, {}, sizes) == size, (name, axis, size)


def test_every_name_in_the_text_is_a_stage_or_a_weight():
    weights = {
        general(name)
        for family in ("qwen2_vl", "qwen2_5_vl")
        for name in weight_shapes(parse_config(tiny_config(family)))
    }
    known = {row["name"] for row in named()} | weights | {n.rpartition(".")[0] for n in weights}
    text = re.sub(r"<!-- stages -->\n(\|[^\n]*\n)+", "", SPEC)
    found = re.findall(r"`((?:visual|model|image|lm_head)\.[\w.]+)`", text)
    assert found
    assert set(found) <= known, set(found) - known


def test_numbered_stages_follow_each_other_and_say_what_pins_them():
    numbers = [int(n) for n in re.findall(r"\n### (\d+)\. ", SPEC)]
    assert numbers == list(range(1, len(numbers) + 1))
    families = {
        "smart_resize", "frame_sampling", "window_index", "cu_seqlens", "vision_positions",
        "mrope_positions", "chat_template", "placeholder_expansion", "models",
    }  # fmt: skip
    sections = re.split(r"\n##+ ", SPEC)
    stages = [s for s in sections if re.match(r"\d+\. |V\d\. ", s)]
    pinned = [re.findall(r"Pinned by: ([^\n]*)", s) for s in stages]
    assert all(len(lines) == 1 for lines in pinned), [s.split("\n")[0] for s in stages]
    words = {word for (line,) in pinned for word in re.findall(r"`(\w+)`", line)}
    assert words == families
