"""What the worked numbers of docs/spec.md follow from: a function of ours for every table."""

import math

import numpy as np
from PIL import Image
from spec_page import plain, same

import tinyqwenvl
from scripts.random_checkpoint import TOKEN_IDS, tiny_config
from tinyqwenvl import UserError, chat, compat, image, nn, presets, sampling, video, vision
from tinyqwenvl.config import parse_config
from tinyqwenvl.oracle.diff import BANDS
from tinyqwenvl.position import mrope_cos_sin, rope_index
from tinyqwenvl.tokenizer import ADDED_TOKENS, PRETOKENS

PUBLISHED = presets.preset("qwen2.5-vl-3b")
VISION = PUBLISHED.vision
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
        "text continues at": positions[0, at],
        "delta": delta,
        "first new token": length + delta,
        "5.3.0 to 5.24.0: text": theirs[0, at],
        "5.3.0 to 5.24.0: new": length + their_delta,
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


def wrong(name, case):
    """The columns of a case that are not what our functions compute."""
    computed = CHECKS[name](plain(case))
    return {n: v for n, v in computed.items() if n not in case or not same(case[n], v)}
