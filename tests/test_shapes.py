"""The shape walk: the real model's stages, on shapes."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import max_examples

import tinyqwenvl
from scripts.random_checkpoint import random_image, write_checkpoint
from tinyqwenvl import UserError
from tinyqwenvl.checkpoint import parameter_count
from tinyqwenvl.model import user_message
from tinyqwenvl.presets import KNOWN_FROM, PRESETS, preset, preset_json
from tinyqwenvl.shapes import walk
from tinyqwenvl.shapes.__main__ import main
from tinyqwenvl.shapes.abstract import Abstract
from tinyqwenvl.shapes.report import as_text, short


def test_the_walk_is_what_the_model_does(model):
    """Names, order, shapes and dtypes of every stage of a real forward pass."""
    images = [random_image(1, 150, 210), random_image(2, 60, 240)]
    seen = []
    with tinyqwenvl.tracing.watching(lambda name, value, _: seen.append((name, value))):
        inputs = model.prepare(user_message(images, "what is different?"))
        model.forward(inputs)
    text = int(np.sum(inputs.input_ids != model.config.image_token_id))
    found = walk(model.config, [(210, 150), (240, 60)], text)
    ours = found.rows
    assert [r.name for r in ours] == [name for name, _ in seen]
    assert [r.shape for r in ours] == [np.shape(value) for _, value in seen]
    assert [np.dtype(r.dtype) for r in ours] == [value.dtype for _, value in seen]
    assert found.parameters["total"] == parameter_count(model.config)


def test_the_walk_of_the_first_document():
    """756x476 in Qwen2-VL-2B with at most 307,200 pixels, as a reader of transformers noted it."""
    found = walk(preset("qwen2-vl-2b"), [(756, 476)], max_pixels=307200)
    (image,) = found.images
    assert image["resized"] == [672, 420]
    assert image["grid_thw"] == [1, 30, 48]
    assert found.tokens == {"image": 360, "text": 49, "total": 409}
    shapes = {row.name: row.shape for row in found.rows}
    assert shapes["image.nine_dimensions"] == (1, 15, 24, 2, 2, 3, 2, 14, 14)
    assert shapes["pixel_values"] == (1440, 1176)
    assert shapes["image_grid_thw"] == (1, 3)  # the note says [1, 4]
    assert shapes["visual.patch_embed"] == (1440, 1280)
    assert shapes["visual.rotary_angles"] == (1440, 40)
    for name in "qkv":
        assert shapes[f"visual.blocks.31.attn.{name}"] == (16, 1440, 80)
    assert "visual.blocks.32" not in shapes  # the note counts 33
    assert shapes["visual.blocks.0.mlp.fc1"] == (1440, 5120)
    assert shapes["visual.merger.mlp.0"] == (360, 5120)
    assert shapes["visual"] == (360, 1536)
    assert shapes["model.layers.27"] == (409, 1536)
    assert "model.layers.28" not in shapes  # the note counts 29
    assert shapes["lm_head"] == (409, 151936)


def test_the_numbers_of_the_second_document():
    (image,) = walk(preset("qwen2.5-vl-7b"), [(1280, 720)]).images
    assert image["resized"] == [1288, 728]
    assert (image["patches"], image["tokens"]) == (4784, 1196)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("qwen2-vl-2b", 2_208_985_600),
        ("qwen2-vl-7b", 8_291_375_616),
        ("qwen2-vl-72b", 73_405_560_320),
        ("qwen2.5-vl-3b", 3_754_622_976),
        ("qwen2.5-vl-7b", 8_292_166_656),
        ("qwen2.5-vl-32b", 33_452_718_336),
        ("qwen2.5-vl-72b", 73_410_777_344),
    ],
)
def test_the_published_sizes(name, parameters):
    """The numbers of parameters are those that the published files are remembered to have."""
    found = walk(preset(name), [(756, 476)])
    assert found.parameters["total"] == parameters == parameter_count(preset(name))
    assert sum(v for k, v in found.parameters.items() if k != "total") == parameters
    text = preset(name).text
    assert found.cache["token"] == 2 * text.num_hidden_layers * text.num_key_value_heads * 128
    assert name in KNOWN_FROM and name in PRESETS


REFERENCE = Path(__file__).parents[2] / "shared" / "reference" / "qwen2.5-vl-3b-config.json"


@pytest.mark.skipif(not REFERENCE.exists(), reason="needs a copy of the published file")
def test_a_preset_says_what_the_published_file_says():
    file = json.loads(REFERENCE.read_text())
    ours = preset_json("qwen2.5-vl-3b")
    assert {**file["vision_config"], **ours.pop("vision_config")} == file["vision_config"]
    assert {**file, **ours} == file


def products(model, inputs):
    """A slow count: two FLOPs for every weight a row meets, and for every pair attention looks at.

    Pairs are counted in attention masks, not in key ranges.
    """
    t, v, patches = model.config.text, model.config.vision, len(inputs.pixel_values)
    weights = {n: np.size(w) for n, w in tinyqwenvl.flatten(model.weights).items()}
    rows = {"visual": patches, "visual.merger": patches // 4, "model": len(inputs.input_ids)}
    flops = {"visual": 0, "model": 0, "lm_head": 0}
    for name, size in weights.items():
        if name.endswith("weight") and not any(p in name for p in ("norm", "ln_q", "embed_tokens")):
            part = name.split(".")[0]
            met = rows["visual.merger" if ".merger." in name else part.replace("lm_head", "model")]
            flops[part] += 2 * size * met
    with tinyqwenvl.trace("*.key_ranges") as key_ranges:
        model.forward(inputs)
    for name, (span,) in key_ranges.items():
        part = name.split(".")[0]
        width = v.hidden_size if part == "visual" else t.hidden_size
        mask = tinyqwenvl.nn.visible_keys(span, span[:, 1].max())
        flops[part] += 4 * width * int(mask.sum())
    return flops


def test_flops_by_another_count(model):
    inputs = model.prepare(user_message(random_image(1, 150, 210), "?"))
    text = int(np.sum(inputs.input_ids != model.config.image_token_id))
    found = walk(model.config, [(210, 150)], text)
    expected = products(model, inputs)
    assert found.flops["vision"] == expected["visual"]
    assert found.flops["decoder"] == expected["model"]
    assert found.flops["lm_head"] * len(inputs.input_ids) == expected["lm_head"]
    longer = walk(model.config, [(210, 150)], text + 1)
    growth = longer.flops["decoder"] - found.flops["decoder"] + found.flops["lm_head"]
    assert found.flops["new_token"] == growth


def test_blocks_add_up():
    found = walk(preset("qwen2.5-vl-3b"), [(756, 476)], max_pixels=307200)
    for whole, parts in (
        ("visual.blocks.0", ("norm1", "attn", "norm2", "mlp")),
        ("visual.blocks.0.attn", ("qkv", "context", "proj")),
        ("visual.merger", ("ln_q", "mlp.0", "mlp.2")),
    ):
        for what in ("parameters", "flops"):
            total = sum(getattr(found.row(f"{whole}.{part}"), what) for part in parts)
            assert getattr(found.row(whole), what) == total
    windowed, full = (found.row(f"visual.blocks.{i}.attn.context").flops for i in (6, 7))
    assert full == 4 * 1440 * 1440 * 1280
    assert windowed < full / 20


@max_examples(25)
@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from(PRESETS))
def test_any_size(width, height, name):
    if max(width, height) > 200 * min(width, height):
        return
    found = walk(preset(name), [(width, height)])
    rows = {row.name: row.shape for row in found.rows}
    assert rows["pixel_values"] == (4 * found.tokens["image"], 1176)
    assert rows["lm_head"][0] == found.tokens["total"]


# ------------------------------------------------------------------ arrays without numbers


def test_abstract_arrays_follow_numpy():
    real = np.zeros((2, 3, 4), np.float32)
    ghost = Abstract(real.shape)
    for function in (
        lambda x: x.T if isinstance(x, np.ndarray) else np.transpose(x),
        lambda x: np.swapaxes(x, 0, 2)[1:, None, ..., ::2],
        lambda x: np.reshape(x, (4, -1)),
        lambda x: np.mean(x, axis=-1, keepdims=True) + x,
        lambda x: np.sum(x, axis=1),
        lambda x: np.concatenate([x, x, x], axis=1),
        lambda x: np.take(x, np.zeros((5, 6), int), axis=1),
        lambda x: np.repeat(x, 3, axis=0),
        lambda x: np.where(np.ones((3, 1), bool), x, 0.0),
        lambda x: x @ np.swapaxes(x, 1, 2),
        lambda x: -x * 2.0 > x,
        lambda x: next(iter(x)),
    ):
        assert function(ghost).shape == function(real).shape


def test_abstract_arrays_refuse_what_cannot_be():
    x = Abstract((2, 3))
    for wrong in (
        lambda: x @ x,
        lambda: np.reshape(x, (4, 2)),
        lambda: np.reshape(x, (4, -1)),
        lambda: np.concatenate([x, Abstract((3, 4))]),
        lambda: x + Abstract((4,)),
    ):
        with pytest.raises(ValueError):
            wrong()
    for wrong in (lambda: bool(x), lambda: np.asarray(x), lambda: np.linalg.svd(x)):
        with pytest.raises(TypeError):
            wrong()


# ------------------------------------------------------------------ the command


def test_text_and_json_agree(capsys):
    words = ["756x476", "--preset", "qwen2-vl-2b", "--max-pixels", "307200"]
    assert main(words) == 0
    text = capsys.readouterr().out
    for part in ("[1440, 1176]", "[1440, 16, 80]", "672x420", "1x30x48", "409 tokens"):
        assert part in text, part
    for part in ("from memory", "32 blocks", "28 blocks", "2,208,985,600", "28,672 bytes"):
        assert part in text, part
    assert main([*words, "--all"]) == 0
    every = capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [s["name"] for s in answer["stages"]][-1] == "lm_head"
    assert all(f"{s['name']} " in every for s in answer["stages"])
    assert answer["bytes"]["weights"]["bfloat16"] == 2 * 2_208_985_600
    assert answer["tokens"]["total"] == 409
    assert answer["second_hand"] == "from memory"
    for what, numbers in (("weights", 2_208_985_600), ("kv_cache", 409 * 14336)):
        assert answer["bytes"][what] == {"bfloat16": 2 * numbers, "float32": 4 * numbers}
    summary = text.split("FLOPs", 2)[2]
    assert "4.42 GB in bfloat16" in text and "8.84 GB in float32" in text
    assert "lm_head 467 M per token" in summary and "11.7 MB for this prompt" in summary


def test_blocks_that_differ_are_told_apart():
    text = as_text("x", walk(preset("qwen2.5-vl-3b"), [(756, 476)]))
    assert "visual.blocks.0-6,8-14,16-22,24-30: 28 blocks\n" in text
    assert "visual.blocks.7,15,23,31: 4 blocks, as above except\n" in text


def test_a_checkpoint_needs_no_weights(family, tmp_path, capsys):
    from scripts.random_checkpoint import tiny_config

    directory = write_checkpoint(tmp_path / "model", tiny_config(family))
    (directory / "model.safetensors").unlink()
    (directory / "tokenizer.json").unlink()
    assert main(["-m", str(directory), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"]["total"] > 0


def test_presets_table(capsys):
    assert main(["--presets"]) == 0
    table = capsys.readouterr().out
    assert all(f"{name} " in table and KNOWN_FROM[name] in table for name in PRESETS)
    assert main(["--presets", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in rows] == list(PRESETS)
    assert all(f"{row['parameters']['total']:,}" in table for row in rows)


@pytest.mark.parametrize("words", [["756x476"], ["756x476", "90x90"]])
def test_the_drawing_is_xml_and_says_the_shapes(words, tmp_path, capsys):
    path = tmp_path / "a.svg"
    assert main([*words, "--preset", "qwen2-vl-2b", "--svg", str(path)]) == 0
    assert capsys.readouterr().out == ""
    texts = [e.text for e in ET.parse(path).iter() if e.text]
    found = walk(preset("qwen2-vl-2b"), [tuple(map(int, w.split("x"))) for w in words])
    assert str(list(found.row("visual").shape)) in texts
    assert str([1, found.config.text.vocab_size]) in texts  # as its FLOPs: of one position
    assert str(list(found.row("lm_head").shape)) not in texts
    assert [p.name for p in tmp_path.iterdir()] == ["a.svg"]


def test_the_drawing_in_the_docs_is_up_to_date(tmp_path):
    words = ["756x476", "--preset", "qwen2.5-vl-3b", "--max-pixels", "307200"]
    assert main([*words, "--svg", str(tmp_path / "a.svg")]) == 0
    in_docs = Path(__file__).parents[1] / "docs" / "shapes.svg"
    assert (tmp_path / "a.svg").read_text() == in_docs.read_text()


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (999.6, "1 k"), (1234567, "1.23 M"), (10**17, "100 P")],
)
def test_short_numbers(number, text):
    assert short(number) == text


def test_a_limit_that_cannot_be_met_is_a_note(capsys):
    assert main(["336x224", "--max-pixels", "10"]) == 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "784 pixels, over max_pixels 10: sides" in err


def test_sizes_that_no_model_takes():
    config = preset("qwen2-vl-2b")
    for sizes, tokens, limits, complaint in (
        ([(300, 1)], 49, {}, "200 times"),
        ([(9, 9)], 1, {}, "text tokens"),
        ([(9, 9)], 10**7, {}, "tokens"),
        ([(9, 9)], 49, {"min_pixels": 10**12}, "tokens"),
    ):
        with pytest.raises(UserError, match=complaint):
            walk(config, sizes, tokens, **limits)
