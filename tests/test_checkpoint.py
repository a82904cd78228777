"""Weights, configs and their companions, as they are published."""

import json
import math
import shutil
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import tinyqwenvl
from scripts.random_checkpoint import random_weights, tiny_config, write_checkpoint
from tinyqwenvl import UserError, flatten, nest
from tinyqwenvl.checkpoint import (
    BFLOAT16,
    load_weights,
    published_name,
    read_safetensors,
    to_bfloat16,
    to_float,
    weight_shapes,
    write_safetensors,
)
from tinyqwenvl.config import load_config, parse_config
from tinyqwenvl.presets import preset, preset_json

RAW = tiny_config("qwen2_5_vl")


# ------------------------------------------------------------------ nested weights


def test_nest_and_flatten():
    flat = {"visual.blocks.0.norm1.weight": np.ones(3), "visual.blocks.0.norm1.bias": np.zeros(3)}
    weights = nest(flat)
    assert (
        weights["visual"]["blocks"]["0"]["norm1"]["weight"] is flat["visual.blocks.0.norm1.weight"]
    )
    assert weights.visual.blocks[0].norm1.weight is flat["visual.blocks.0.norm1.weight"]
    assert weights.visual.blocks[0].norm1.path == "visual.blocks.0.norm1"
    assert flatten(weights) == flat
    assert flatten(nest({"proj.weight": 1}, "visual.blocks.0.attn")) == {
        "visual.blocks.0.attn.proj.weight": 1
    }


def test_a_missing_weight_is_named():
    with pytest.raises(AttributeError, match=r"visual\.merger"):
        _ = nest({"visual.blocks.0.weight": 1}).visual.merger


def test_leaves_are_read_once_and_only_when_used():
    reads = []
    weights = nest({"a.weight": lambda: reads.append(1) or np.ones(2)})
    assert not reads
    assert weights.a.weight is weights.a.weight
    assert reads == [1]


# ------------------------------------------------------------------ bfloat16 and the file


@given(st.floats(width=32, allow_nan=False, min_value=-(2.0**126), max_value=2.0**126))
def test_bfloat16_round_trip_is_within_half_a_step(x):
    back = to_float(to_bfloat16(np.array([x])))[0]
    step = abs(np.float32(x)) * 2.0**-7  # 8 significant bits; the least step is 2 ** -133
    assert abs(float(back) - float(np.float32(x))) <= max(step, 2.0**-133) / 2


def test_bfloat16_vectors():
    """1, the largest step below 2, a tie to even, -0 and infinity."""
    bits = np.array([0x3F80, 0x3FFF, 0x8000, 0x7F80], np.uint16)
    assert to_float(bits.view(BFLOAT16)).tolist() == [1, 1.9921875, -0.0, np.inf]
    ties = to_bfloat16(np.array([1 + 2**-8, 1 + 3 * 2**-8], np.float32))
    assert ties.view(np.uint16).tolist() == [0x3F80, 0x3F82]


def test_safetensors_agree_with_the_library(tmp_path):
    arrays = {"a.weight": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)}
    arrays["empty"] = np.zeros((0, 4), np.float32)
    write_safetensors(tmp_path / "ours.safetensors", arrays)
    theirs = safetensors.numpy.load_file(tmp_path / "ours.safetensors")
    safetensors.numpy.save_file(
        {"h": arrays["a.weight"].astype(np.float16), "d": np.ones(2)},
        tmp_path / "theirs.safetensors",
    )
    for name, array in arrays.items():
        np.testing.assert_array_equal(theirs[name], array)
        np.testing.assert_array_equal(
            read_safetensors(tmp_path / "ours.safetensors")[name](), array
        )
    ours = read_safetensors(tmp_path / "theirs.safetensors", np.float64)
    np.testing.assert_array_equal(ours["h"](), arrays["a.weight"].astype(np.float16))
    assert ours["h"]().dtype == ours["d"]().dtype == np.float64
    assert [p.name for p in tmp_path.glob("*.part")] == []


# ------------------------------------------------------------------ published directories


@pytest.fixture
def directory(tmp_path):
    return write_checkpoint(tmp_path / "model", RAW, seed=5)


def logits_of(directory):
    model = tinyqwenvl.load(directory)
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    messages = [{"role": "user", "content": [{"image": image}, {"text": "what?"}]}]
    return model.forward(model.prepare(messages))


def change_config(directory, **changes):
    raw = {**json.loads((directory / "config.json").read_text()), **changes}
    (directory / "config.json").write_text(json.dumps(raw))


def test_every_layout_gives_the_same_logits(directory, tmp_path):
    """Shards, the newer key names, the nested config with rope_parameters, float32."""
    expected = logits_of(directory)
    flat = random_weights(RAW, 5)
    other = tmp_path / "other"
    shutil.copytree(directory, other)
    (other / "model.safetensors").unlink()
    renamed = {}
    for name, array in flat.items():
        new = name.replace("model.", "model.language_model.", 1) if name[:6] == "model." else name
        renamed["model." + new if name.startswith("visual.") else new] = array
    names = list(renamed)
    shards = {
        "model-00001-of-00002.safetensors": names[:50],
        "model-00002-of-00002.safetensors": names[50:],
    }
    for shard, members in shards.items():
        write_safetensors(other / shard, {n: renamed[n] for n in members})
    index = {"weight_map": {n: shard for shard, members in shards.items() for n in members}}
    (other / "model.safetensors.index.json").write_text(json.dumps(index))
    text_keys = [
        k for k in RAW if k.startswith(("hidden_s", "interm", "num_", "vocab", "rms", "max_"))
    ]
    text = {k: RAW[k] for k in text_keys}
    text["rope_parameters"] = {
        "rope_theta": 10000.0,
        "rope_type": "default",
        "mrope_section": [2, 3, 3],
    }
    nested = {k: v for k, v in RAW.items() if k not in text_keys and not k.startswith("rope_")}
    (other / "config.json").write_text(json.dumps({**nested, "text_config": text}))
    np.testing.assert_array_equal(logits_of(other), expected)


def test_names():
    assert published_name("model.visual.merger.ln_q.weight") == "visual.merger.ln_q.weight"
    assert published_name("model.language_model.norm.weight") == "model.norm.weight"
    assert published_name("lm_head.weight") == "lm_head.weight"


def test_a_tied_head_is_the_embedding(tmp_path):
    raw = {**RAW, "tie_word_embeddings": True}
    model = tinyqwenvl.load(write_checkpoint(tmp_path, raw))
    assert model.weights.lm_head.weight is model.weights.model.embed_tokens.weight
    assert model.weights.lm_head.path == "lm_head"


def test_float64_is_float64(directory):
    model = tinyqwenvl.load(directory, dtype="float64")
    with tinyqwenvl.trace() as stages:
        model.forward(
            model.prepare(
                [{"role": "user", "content": [{"image": np.zeros((60, 60, 3), np.uint8)}]}]
            )
        )
    # pixels are bit-equal to transformers', then widened
    after = [calls for name, calls in stages.items() if not name.startswith("image.")]
    floats = {a.dtype for calls in after for a in calls if a.dtype.kind == "f"}
    assert floats == {np.dtype(np.float64)}
    with pytest.raises(UserError, match="float16"):
        tinyqwenvl.load(directory, dtype="float16")


def test_the_vision_part_to_its_own_file(directory, tmp_path):
    model = tinyqwenvl.load(directory)
    write_safetensors(tmp_path / "vision.safetensors", flatten(model.weights.visual))
    again = nest(
        {n: read() for n, read in read_safetensors(tmp_path / "vision.safetensors").items()}
    )
    for name, array in flatten(again).items():
        assert name.startswith("visual.")
        np.testing.assert_array_equal(array, random_weights(RAW, 5)[name])


def test_no_network_says_what_to_do(monkeypatch):
    import huggingface_hub

    def offline(*_args, **_kwargs):
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(UserError, match="hf download Qwen/Nothing") as caught:
        tinyqwenvl.load("Qwen/Nothing")
    assert "\n" not in str(caught.value)


def test_what_published_files_leave_out():
    """Defaults, as transformers has them."""
    raw = preset_json("qwen2.5-vl-3b")
    vision = dict(raw["vision_config"])
    del vision["fullatt_block_indexes"], vision["window_size"]
    config = parse_config({**raw, "vision_config": vision})
    assert config.vision.fullatt_block_indexes == (7, 15, 23, 31)
    assert config.vision.window_size == 112
    assert config.text.head_dim == 128
    empty = parse_config({**raw, "vision_config": {**vision, "fullatt_block_indexes": []}})
    assert empty.vision.fullatt_block_indexes == ()  # as transformers reads it


def test_load_weights_checks_before_reading(directory):
    """Opening reads no tensor: the leaves are still functions."""
    weights = load_weights(directory, load_config(directory))
    assert callable(weights.visual.patch_embed.proj._children["weight"])


def test_opening_seven_gigabytes_reads_none_of_them(tmp_path):
    """A sparse file of the 3B's size: opened, checked, and one tensor of it read."""
    config = preset("qwen2.5-vl-3b")
    header, offset = {}, 0
    for name, shape in weight_shapes(config).items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)
    tracemalloc.start()
    weights = load_weights(tmp_path, config)
    assert weights.visual.blocks[31].norm2.weight.shape == (1280,)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


# ------------------------------------------------------------------ the small companions


def companions(directory, **files):
    for name, value in files.items():
        (directory / f"{name}.json").write_text(json.dumps(value))
    return load_config(directory)


def test_the_processor_config_is_obeyed(directory):
    """Published names, those of transformers 5, and its other file."""
    old = {"min_pixels": 4000, "max_pixels": 9000, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    new = {"size": {"shortest_edge": 4000, "longest_edge": 9000}}
    new |= {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    expected = companions(directory, preprocessor_config=old).processor
    both = {"image_processor": new, "video_processor": new}
    assert (expected.min_pixels, expected.max_pixels) == (4000, 9000)
    assert companions(directory, preprocessor_config=new).processor == expected
    (directory / "preprocessor_config.json").unlink()
    assert companions(directory, processor_config=both).processor == expected
    inputs = tinyqwenvl.load(directory).prepare(
        [{"role": "user", "content": [{"image": np.full((200, 200, 3), 255, np.uint8)}]}]
    )
    assert inputs.image_grid_thw.tolist() == [[1, 6, 6]]  # 84 x 84 = 7,056 pixels
    assert np.unique(inputs.pixel_values).tolist() == [2.0]  # (1 - 0.5) / 0.25


def test_stop_tokens_come_from_the_generation_config(directory):
    assert load_config(directory).eos_token_ids == (RAW["eos_token_id"],)
    assert companions(directory, generation_config={"eos_token_id": [7, 9]}).eos_token_ids == (7, 9)
    assert companions(directory, generation_config={"eos_token_id": 7}).eos_token_ids == (7,)
    change_config(directory, eos_token_id=None)
    (directory / "generation_config.json").unlink()
    assert tinyqwenvl.load(directory).config.eos_token_ids == (258,)  # <|im_end|>


def test_rope_settings(directory):
    scaling = {"type": "mrope", "mrope_section": [2, 3, 3], "rope_theta": 500.0}
    change_config(directory, rope_scaling=scaling)
    assert load_config(directory).text.rope_theta == 500.0
    other = {"rope_type": "default", "mrope_section": [4, 2, 2], "rope_theta": 9.0}
    change_config(directory, rope_parameters=other)
    assert load_config(directory).text.rope_theta == 500.0  # HF: rope_scaling goes first
    change_config(directory, rope_scaling=None)
    assert load_config(directory).text.mrope_section == (4, 2, 2)
    vision = {**RAW["vision_config"], "rope_parameters": {"rope_theta": 100.0}}
    change_config(directory, vision_config=vision)
    assert load_config(directory).vision.rope_theta == 100.0


def test_a_relative_directory_survives_a_change_of_directory(directory, monkeypatch, tmp_path):
    monkeypatch.chdir(directory.parent)
    model = tinyqwenvl.load("model")
    monkeypatch.chdir(tmp_path.parent)
    assert model.weights.model.norm.weight.shape == (64,)


def test_a_part_cannot_be_a_weight_too():
    for flat in ({"a": 1, "a.b": 2}, {"a.b": 2, "a": 1}):
        with pytest.raises(UserError, match="both a weight and a module"):
            nest(flat)
