"""docs/spec.md: every worked number is computed again, every stage it names exists in a real trace.

A block of the page that follows ``<!-- check: NAME -->`` is a table or JSON. ``CHECKS[NAME]`` takes
a row (or case) and returns the columns that follow from the others; they must be those of the page.
A table that follows ``<!-- stages -->`` names stages with their shapes; one that follows
``<!-- witnesses -->`` or ``<!-- words -->`` holds nothing that could be computed here.
"""

import json
import math
import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import tinyqwenvl
from scripts.random_checkpoint import TOKEN_IDS, random_image, tiny_config
from tinyqwenvl import UserError, chat, compat, image, nn, presets, sampling, video, vision
from tinyqwenvl.checkpoint import weight_shapes
from tinyqwenvl.config import VisionConfig, parse_config
from tinyqwenvl.oracle.diff import BANDS
from tinyqwenvl.position import mrope_cos_sin, rope_index
from tinyqwenvl.tokenizer import ADDED_TOKENS, PRETOKENS

SPEC = (Path(__file__).parents[1] / "docs" / "spec.md").read_text(encoding="utf-8")
PUBLISHED = presets.preset("qwen2.5-vl-3b")
VISION = PUBLISHED.vision

# ------------------------------------------------------------------ reading the page


def blocks(mark):
    """(argument of the marker, the block after it) for every ``<!-- mark: argument -->``."""
    pattern = rf"<!-- {mark}(?:: (\w+))? -->\n(```json\n.*?\n```|(?:\|[^\n]*\n)+)"
    return re.findall(pattern, SPEC, re.DOTALL)


def table(block):
    """A Markdown table as a list of {column: cell}."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
    return [dict(zip(lines[0], cells, strict=True)) for cells in lines[2:]]


def parsed(cell):
    """A cell as JSON, tuples in round brackets, numbers with a fraction as Decimal; or its text."""
    text = cell.strip("`")
    try:
        return json.loads(
            text.replace("(", "[").replace(")", "]").replace(" / ", "/"), parse_float=Decimal
        )
    except ValueError:
        return text


def cases(block):
    """The rows of a checked block, as {name: value}."""
    if block.startswith("```"):
        found = json.loads(block[8:-4], parse_float=Decimal)
        return found if isinstance(found, list) else [found]
    return [{name: parsed(cell) for name, cell in row.items()} for row in table(block)]


def plain(value):
    """Decimals as floats, all the way down."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {name: plain(v) for name, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list) else value


def same(written, computed):
    """Whether the page's value is the computed one, as exactly as its digits say."""
    if isinstance(computed, np.ndarray | np.generic):
        computed = computed.tolist()
    if isinstance(written, dict) and isinstance(computed, dict):
        return written.keys() == computed.keys() and all(
            same(v, computed[n]) for n, v in written.items()
        )
    if isinstance(written, list) and isinstance(computed, list | tuple):
        return len(written) == len(computed) and all(map(same, written, computed))
    if isinstance(written, Decimal):
        if isinstance(computed, bool) or not isinstance(computed, int | float):
            return False
        last = Decimal(1).scaleb(written.as_tuple().exponent)
        return abs(written - Decimal(computed)) <= last * Decimal("0.5000001")
    if isinstance(computed, float) and isinstance(written, int):
        return written == computed
    return type(written) is type(computed) and written == computed


def wrong(name, case):
    """The columns of a case that are not what our functions compute."""
    computed = CHECKS[name](plain(case))
    return {n: v for n, v in computed.items() if n not in case or not same(case[n], v)}


# ------------------------------------------------------------------ what follows from what

CHECKS = {}


def check(function):
    CHECKS[function.__name__] = function
    return function


def or_error(function, *args):
    try:
        return function(*args)
    except UserError:
        return "error"


@check
def smart_resize(row):
    args = (row["height"], row["width"], 28, row["min_pixels"], row["max_pixels"])
    ours = or_error(image.smart_resize, *args)
    columns = {"result": ours, "grid": "error" if ours == "error" else (1, *np.array(ours) // 14)}
    if "qwen_vl_utils" in row:
        columns["qwen_vl_utils"] = or_error(compat.smart_resize_qwen_vl_utils, *args)
        columns["4.46 to 4.52"] = or_error(compat.smart_resize_hf_4_49, *args)
    return columns | {"tokens": "error" if ours == "error" else ours[0] * ours[1] // 784}


@check
def resize(row):
    pil_image = Image.fromarray(np.repeat(np.array([row["bytes"]], np.uint8)[..., None], 3, axis=2))
    return {"result": image.resize(pil_image, 1, row["to"])[0, :, 0]}


@check
def normalise(row):
    frames = np.full((1, 1, 1, 3), row["byte"], np.uint8)
    return dict(
        zip(("red", "green", "blue"), image.normalise(frames).ravel().tolist(), strict=True)
    )


@check
def patchify(row):
    height, width = row["size"]
    numbered = np.arange(2 * height * width * 3, dtype=np.float32).reshape(2, height, width, 3)
    patches, _ = image.patchify(numbered)
    where = np.unravel_index(int(patches[row["row"], row["number"]]), numbered.shape)
    return dict(zip(("frame", "y", "x", "channel"), map(int, where), strict=True))


@check
def chat_template(case):
    options = {n: case[n] for n in ("add_generation_prompt", "add_vision_id") if n in case}
    pieces = or_error(lambda: chat.render(case["messages"], **options))
    return {"text": pieces if pieces == "error" else "".join(pieces)}


@check
def placeholder_expansion(row):
    counts = [math.prod(grid) // VISION.merged_patches for grid in row["grids"]]
    pieces = [chat.IMAGE_PAD if p == "pad" else p for p in row["pieces"]]
    expanded = or_error(chat.expand, pieces, chat.IMAGE_PAD, counts)
    names = ["pad" if isinstance(p, chat.SpecialToken) else p for p in expanded]
    return {"counts": counts, "result": expanded if expanded == "error" else names}


@check
def added_tokens(case):
    return {token: 151643 + i for i, token in enumerate(ADDED_TOKENS)}


@check
def pretokens(row):
    from tokenizers import Regex, pre_tokenizers

    split = pre_tokenizers.Split(Regex(PRETOKENS), "isolated")
    return {"pieces": [piece for piece, _ in split.pre_tokenize_str(row["text"])]}


@check
def vision_positions(row):
    return {"(row, column)": vision.patch_positions(np.array([row["grid"]]), 2)}


@check
def window_index(row):
    index, _ = vision.window_index(np.array(row["grids"]), VISION)
    return {"window_index": index, "inverse": np.argsort(index)}


@check
def cu_seqlens(row):
    grids = np.array(row["grids"])
    windows = vision.window_index(grids, VISION)[1]
    return {"cu_window_seqlens": windows, "cu_seqlens": vision.frame_seqlens(grids)}


@check
def key_ranges(row):
    if "cu_seqlens" in row:
        return {"key_ranges": nn.segment_key_ranges(np.array(row["cu_seqlens"]))}
    return {"key_ranges": nn.causal_key_ranges(row["new"], row["past"])}


@check
def vision_frequencies(row):
    frequencies = nn.rotary_frequencies(40, 10000.0)
    angle = np.float32(37) * frequencies[row["j"]]
    return {
        "frequency": frequencies[row["j"]],
        "angle of 37": angle,
        "cos": np.cos(angle),
        "sin": np.sin(angle),
    }


@check
def norms(case):
    weights = {"weight": np.array(case["weight"]), "bias": np.array(case["bias"])}
    x, tree = np.array(case["x"], float), tinyqwenvl.nest({f"n.{k}": v for k, v in weights.items()})
    return {
        "rms_norm": nn.rms_norm(x, tree.n, case["eps"]),
        "layer_norm": nn.layer_norm(x, tree.n, case["eps"]),
    }


@check
def activations(row):
    x = np.array([row["x"]], float)
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return {
        "quick_gelu": nn.quick_gelu(x)[0],
        "gelu (erf)": nn.gelu(x)[0],
        "gelu (tanh), not used": (0.5 * x * (1 + np.tanh(inner)))[0],
        "silu": nn.silu(x)[0],
    }


@check
def attention(case):
    q, k, v = (np.array(case[name], float) for name in "qkv")
    return {"out": nn.attention(q, k, v, np.array(case["key_ranges"]))}


@check
def rotate(case):
    angles = np.tile(np.array([case["angles"]], float), 2)
    x = np.array([[case["x"]]], float)
    return {"out": nn.rotate(x, np.cos(angles), np.sin(angles))[0, 0]}


def rope_case(parts, family="qwen2_5_vl", function=rope_index):
    """Positions and delta of a prompt of text (a number), {"image": grid}, {"video": grid, ...}."""
    config = parse_config(tiny_config(family))
    ids, grids, seconds = [], {"image": [], "video": []}, []
    for part in parts:
        if isinstance(part, int):
            ids += [5] * part
            continue
        kind = "video" if "video" in part else "image"
        grids[kind].append(part[kind])
        seconds += [part["seconds"]] if "seconds" in part else []
        count = part.get("placeholders", math.prod(part[kind]) // 4)
        ids += [TOKEN_IDS[f"<|{kind}_pad|>"]] * count
    media = [np.array(g) if g else None for g in grids.values()]
    return function(np.array(ids, np.int64), config, *media, seconds or None)


@check
def mrope_positions(case):
    found = or_error(lambda: rope_case(case["parts"], case["family"]))
    if found == "error":
        return {"error": True}
    positions, delta = found
    return {**dict(zip(("time", "height", "width"), positions, strict=True)), "delta": delta}


@check
def temporal_ids(row):
    seconds = 2 / row["fps"]
    part = [{"video": [row["grids"], 2, 2], "seconds": seconds}]
    return {
        "seconds": seconds,
        "Qwen2.5-VL": rope_case(part)[0][0],
        "Qwen2-VL": rope_case(part, "qwen2_vl")[0][0],
        "seconds cut first": rope_case(part, function=compat.rope_index_hf_4_52)[0][0],
    }


@check
def decode_positions(row):
    block = {"video": row["grid"], "seconds": row["seconds"]}
    parts = [row["before"], block, row["after"]]
    positions, delta = rope_case(parts)
    theirs, their_delta = rope_case(parts, function=compat.rope_index_hf_5)
    length = positions.shape[1]
    at = length - row["after"]
    return {
        "S": length,
        "text goes on at": positions[0, at],
        "delta": delta,
        "first new token": length + delta,
        "5.3.0 to 5.23.0: text": theirs[0, at],
        "5.3.0 to 5.23.0: new": length + their_delta,
    }


@check
def mrope_frequencies(row):
    text, i, frequencies = PUBLISHED.text, row["i"], nn.rotary_frequencies(128, 1e6)
    cos, sin = mrope_cos_sin(np.array([[22], [5], [3]]), text)
    axis = int(np.repeat(np.arange(3), text.mrope_section)[i])
    assert cos[0, i] == cos[0, i + 64]
    return {
        "axis": ("time", "height", "width")[axis],
        "frequency": frequencies[i],
        "angle": frequencies[i] * np.float32((22, 5, 3)[axis]),
        "cos": cos[0, i],
        "sin": sin[0, i],
    }


@check
def repetition_penalty(row):
    logits, ids = np.array(row["logits"]), np.array(row["ids"], int)
    scores = sampling.penalise(logits, ids, row["penalty"])
    return {"scores": scores, "chosen": sampling.greedy(scores)}


@check
def frame_sampling(row):
    args = (row["frames"], row["rate"], row["fps"], row["min"], row["max"])
    ours = video.sample_qwen_vl_utils(*args)
    return {
        "used": len(ours),
        "qwen-vl-utils": ours,
        "hf": video.sample_hf(*args),
        "seconds": 2 * row["frames"] / len(ours) / row["rate"],
    }


@check
def frame_limits(row):
    least, most = video.limits_qwen_vl_utils(
        row["used"], PUBLISHED, row["min_pixels"], row["max_pixels"]
    )
    size = image.smart_resize(row["height"], row["width"], 28, least, most)
    return {"least": least, "most": most, "result": size}


@check
def published(row):
    config = presets.preset(row["model"].lower())
    text, vision_encoder = config.text, config.vision
    return {
        "family": config.model_type,
        "D": text.hidden_size,
        "layers": text.num_hidden_layers,
        "A": text.num_attention_heads,
        "B": text.num_key_value_heads,
        "d": text.head_dim,
        "m": text.intermediate_size,
        "V": text.vocab_size,
        "tied": "yes" if config.tie_word_embeddings else "no",
        "vision m": vision_encoder.intermediate_size,
    }


@check
def constants(case):
    """What all published models share; the page's JSON has the names of config.json."""
    found = []
    for name in presets.PRESETS:
        config, raw = presets.preset(name), presets.preset_json(name)
        text, vision_encoder = config.text, config.vision
        shared = {
            "depth": vision_encoder.depth,
            "vision width": vision_encoder.hidden_size,
            "num_heads": vision_encoder.num_heads,
            "patch_size": vision_encoder.patch_size,
            "spatial_merge_size": vision_encoder.spatial_merge_size,
            "temporal_patch_size": vision_encoder.temporal_patch_size,
            "in_channels": vision_encoder.in_channels,
            "vision norm eps": vision_encoder.rms_norm_eps,
            "vision rope_theta": vision_encoder.rope_theta,
            "rms_norm_eps": text.rms_norm_eps,
            "rope_theta": text.rope_theta,
            "mrope_section": list(text.mrope_section),
            "image_token_id": config.image_token_id,
            "video_token_id": config.video_token_id,
            "min_pixels": config.processor.min_pixels,
            "max_pixels": config.processor.max_pixels,
            "image_mean": list(config.processor.image_mean),
            "image_std": list(config.processor.image_std),
        }
        newer = config.model_type == "qwen2_5_vl"
        assert raw["hidden_act"] == "silu"
        if newer:
            shared["Qwen2.5-VL only"] = {
                "window_size": vision_encoder.window_size,
                "fullatt_block_indexes": list(vision_encoder.fullatt_block_indexes),
                "tokens_per_second": vision_encoder.tokens_per_second,
            }
            assert vision_encoder.out_hidden_size == text.hidden_size
        else:
            assert vision_encoder.fullatt_block_indexes == tuple(range(vision_encoder.depth))
        found.append(shared)
    whole = found[-1]
    for shared in found:
        assert {n: v for n, v in whole.items() if n in shared} == shared
    return whole


@check
def bands(row):
    return dict(zip(("NMSE", "1 - cosine", "max / std"), BANDS[row["format"]], strict=True))


# ------------------------------------------------------------------ the worked numbers

ALL = [(name, block) for name, block in blocks("check")]
IDS = [f"{name}-{i}" for i, (name, _) in enumerate(ALL)]


@pytest.mark.parametrize(("name", "block"), ALL, ids=IDS)
def test_worked_numbers(name, block):
    for case in cases(block):
        assert not wrong(name, case), case


def altered(value):
    """The same value with one number in it changed in its last digit, or None."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, Decimal):
        return value + Decimal(2).scaleb(value.as_tuple().exponent)
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return value + "."
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in reversed(list(items)):
        if (other := altered(item)) is not None:
            changed = dict(value) if isinstance(value, dict) else list(value)
            changed[key] = other
            return changed
    return None


@pytest.mark.parametrize(("name", "block"), ALL, ids=IDS)
def test_a_changed_number_is_noticed(name, block):
    for case in cases(block):
        for column, computed in CHECKS[name](plain(case)).items():
            other = altered(case[column])
            assert other is None or not same(other, computed), (column, other)


def test_every_check_is_used_and_every_table_is_marked():
    assert {name for name, _ in ALL} == set(CHECKS)
    tables = re.findall(r"\n([^|\n]*)\n\|", SPEC)
    locations = re.compile(r"<!-- (check: \w+|stages|witnesses|words) -->")
    assert all(locations.fullmatch(line) for line in tables), tables
    fences = re.findall(r"\n([^\n]*)\n```json", SPEC)
    assert all(locations.fullmatch(line) for line in fences), fences
    assert len(tables) + len(fences) == sum(
        len(blocks(mark)) for mark in ("check", "stages", "witnesses", "words")
    )


# ------------------------------------------------------------------ the stages by name


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


# ------------------------------------------------------------------ formulas in words


def cubic(x, a=-0.5):
    x = abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def resized_by_the_formula(values, size):
    """Stage 3 as the page words it, along one axis of bytes."""
    scale = len(values) / size
    stretch = max(scale, 1.0)
    out = []
    for i in range(size):
        centre = (i + 0.5) * scale
        first = max(int(centre - 2 * stretch + 0.5), 0)
        last = min(int(centre + 2 * stretch + 0.5), len(values))
        taps = [cubic((j - centre + 0.5) / stretch) for j in range(first, last)]
        total = sum(taps)
        whole = [math.trunc(t / total * 2**22 + math.copysign(0.5, t)) for t in taps]
        score = 2**21 + sum(k * int(v) for k, v in zip(whole, values[first:last], strict=True))
        out.append(min(max(score >> 22, 0), 255))
    return out


@given(st.lists(st.integers(0, 255), min_size=1, max_size=30), st.integers(1, 30))
def test_the_formula_of_the_resize_is_that_of_pillow(values, size):
    pil_image = Image.fromarray(np.repeat(np.array([values], np.uint8)[..., None], 3, axis=2))
    expected = image.resize(pil_image, 1, size)[0, :, 0].tolist()
    assert resized_by_the_formula(values, size) == expected


def test_the_resize_goes_across_first_and_rounds_in_between():
    pil_image = random_image(5, 40, 50)
    across = [[resized_by_the_formula(row[:, c], 28) for c in range(3)] for row in pil_image]
    across = np.transpose(np.array(across), (0, 2, 1))
    down = [[resized_by_the_formula(across[:, x, c], 56) for c in range(3)] for x in range(28)]
    down = np.transpose(np.array(down), (2, 0, 1))
    np.testing.assert_array_equal(image.resize(Image.fromarray(pil_image), 56, 28), down)


def padded_window_index(grid, side):
    """Stage 10 as transformers words it: pad to whole windows (one more when even), drop."""
    t, h, w = grid[0], grid[1] // 2, grid[2] // 2
    down, across = side - h % side, side - w % side
    index = np.pad(
        np.arange(t * h * w).reshape(t, h, w), ((0, 0), (0, down), (0, across)), constant_values=-1
    )
    windows = index.reshape(t, (h + down) // side, side, (w + across) // side, side)
    windows = windows.transpose(0, 1, 3, 2, 4).reshape(-1, side * side)
    ends = np.cumsum((windows >= 0).sum(axis=1)) * 4
    return windows[windows >= 0].tolist(), list(dict.fromkeys([0, *ends.tolist()]))


@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))
def test_windows_with_and_without_padding_are_the_same(t, h, w):
    grid = (t, 2 * h, 2 * w)
    index, ends = vision.window_index(
        np.array([grid]), VisionConfig(4, 48, 3, 64, 64, fullatt_block_indexes=(1, 3))
    )
    assert (index.tolist(), ends.tolist()) == padded_window_index(grid, 4)
