"""Damaged checkpoints get one line that says what is wrong."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyqwenvl
from scripts.random_checkpoint import random_weights, tiny_config, write_checkpoint
from tinyqwenvl import UserError
from tinyqwenvl.checkpoint import (
    read_safetensors,
    write_safetensors,
)

RAW = tiny_config("qwen2_5_vl")


@pytest.fixture
def directory(tmp_path):
    return write_checkpoint(tmp_path / "model", RAW, seed=5)


def change_config(directory, **changes):
    raw = {**json.loads((directory / "config.json").read_text()), **changes}
    (directory / "config.json").write_text(json.dumps(raw))


def damage_header(directory, change, rewrite=str):
    path = directory / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = rewrite(json.dumps(header)).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def cut(directory, size):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])


def shard(directory, places):
    (directory / "model.safetensors").unlink()
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))


def shrink(directory, rows):
    """The same checkpoint with fewer rows of vocabulary than its tokenizer has tokens."""
    flat = random_weights({**RAW, "vocab_size": rows}, 5)
    write_safetensors(directory / "model.safetensors", flat, True)


FIRST = "visual.patch_embed.proj.weight"
NO_FILE = "is truncated or not a safetensors file"
DAMAGE = {
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "missing"),
    "empty weights": (lambda d: cut(d, 0), NO_FILE),
    "cut in the header": (lambda d: cut(d, 100), NO_FILE),
    "cut in the data": (lambda d: cut(d, 100_000), NO_FILE),
    "header length 2^60": (
        lambda d: (d / "model.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}"),
        NO_FILE,
    ),
    "garbage": (lambda d: (d / "model.safetensors").write_bytes(b"GGUF" * 100), NO_FILE),
    "LFS pointer": (
        lambda d: (d / "model.safetensors").write_text("version https://git-lfs.github.com/spec"),
        "is a Git LFS pointer, not the file itself: git lfs pull",
    ),
    "offsets outside": (
        lambda d: damage_header(d, lambda h: h[FIRST].update(data_offsets=[0, 10**12])),
        NO_FILE,
    ),
    "negative offset": (
        lambda d: damage_header(d, lambda h: h[FIRST].update(data_offsets=[-4, 8])),
        NO_FILE,
    ),
    "overlap": (
        lambda d: damage_header(
            d, lambda h: h["visual.blocks.0.norm2.weight"].update(h["visual.blocks.0.norm1.weight"])
        ),
        NO_FILE,
    ),
    "float offsets": (
        lambda d: damage_header(d, lambda h: h[FIRST].update(shape=[48.0, 3, 2, 14, 14])),
        NO_FILE,
    ),
    "the same name twice": (
        lambda d: damage_header(d, lambda h: h, lambda t: t.replace("norm2", "norm1")),
        NO_FILE,
    ),
    "both layouts": (
        lambda d: damage_header(
            d,
            lambda h: h,
            lambda t: t.replace("visual.blocks.0.norm2", "model.visual.blocks.0.norm1"),
        ),
        "occurs twice",
    ),
    "deep nesting": (
        lambda d: damage_header(d, lambda h: h, lambda t: "[" * 100_000),
        NO_FILE,
    ),
    "shape and bytes": (
        lambda d: damage_header(d, lambda h: h[FIRST].update(shape=[1])),
        NO_FILE,
    ),
    "negative shape": (
        lambda d: damage_header(d, lambda h: h[FIRST].update(shape=[-48, -3, 2, 14, 14])),
        NO_FILE,
    ),
    "quantised tensor": (
        lambda d: damage_header(d, lambda h: h[FIRST].update(dtype="I16")),
        "unquantised",
    ),
    "missing tensor": (lambda d: change_config(d, num_hidden_layers=4), r"lack model\.layers\.3"),
    "unknown tensor": (
        lambda d: change_config(d, num_hidden_layers=2),
        r"unknown weight model\.layers\.2",
    ),
    "wrong shape": (
        lambda d: damage_header(d, lambda h: h[FIRST].update(shape=[24, 6, 2, 14, 14])),
        "config.json requires",
    ),
    "no config": (lambda d: (d / "config.json").unlink(), "has no config.json"),
    "config not JSON": (lambda d: (d / "config.json").write_text("{"), "is not JSON"),
    "config nested deep": (lambda d: (d / "config.json").write_text("[" * 100_000), "is not JSON"),
    "config not text": (lambda d: (d / "config.json").write_bytes(b"\xff\xfe"), "cannot read"),
    "config a list": (lambda d: (d / "config.json").write_text("[]"), "one JSON object"),
    "another model": (lambda d: change_config(d, model_type="llama"), "model_type is 'llama'"),
    "no hidden_size": (lambda d: change_config(d, hidden_size=None), "hidden_size is None"),
    "a size in words": (lambda d: change_config(d, hidden_size="64"), "wrong type|hidden_size is"),
    "a size with a point": (lambda d: change_config(d, vocab_size=300.0), "vocab_size is 300.0"),
    "layers without end": (
        lambda d: change_config(d, num_hidden_layers=10**12),
        "num_hidden_layers",
    ),
    "eps not a number": (lambda d: change_config(d, rms_norm_eps=float("nan")), "rms_norm_eps"),
    "tied in words": (
        lambda d: change_config(d, tie_word_embeddings="false"),
        "tie_word_embeddings",
    ),
    "YaRN": (
        lambda d: change_config(d, rope_scaling={"type": "yarn", "mrope_section": [2, 3, 3]}),
        "rope_type is 'yarn'",
    ),
    "sliding window": (lambda d: change_config(d, use_sliding_window=True), "use_sliding_window"),
    "another activation": (lambda d: change_config(d, hidden_act="gelu"), "hidden_act is 'gelu'"),
    "not normalised": (
        lambda d: (d / "preprocessor_config.json").write_text('{"do_normalize": false}'),
        "do_normalize",
    ),
    "no deviation": (
        lambda d: (d / "preprocessor_config.json").write_text('{"image_std": [0, 0, 0]}'),
        "image_std",
    ),
    "small vocabulary": (
        lambda d: change_config(d, vocab_size=270) or shrink(d, 270),
        "more tokens than",
    ),
    "no vision": (lambda d: change_config(d, vision_config=None), "lacks 'vision_config'"),
    "heads": (lambda d: change_config(d, num_attention_heads=5), "num_attention_heads"),
    "kv heads": (lambda d: change_config(d, num_key_value_heads=3), "num_key_value_heads"),
    "sections": (
        lambda d: change_config(d, rope_scaling={"mrope_section": [1, 2, 3]}),
        "mrope_section",
    ),
    "window": (
        lambda d: change_config(d, vision_config={**RAW["vision_config"], "window_size": 20}),
        "window_size",
    ),
    "negative": (lambda d: change_config(d, intermediate_size=-1), "intermediate_size is -1"),
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), "tokenizer.json"),
    "another tokenizer": (lambda d: change_config(d, image_token_id=7), "disagree"),
    "shard elsewhere": (lambda d: shard(d, {"a": "../../etc/passwd"}), "inside its directory"),
    "shard missing": (lambda d: shard(d, {"a": "model-00001-of-00001.safetensors"}), "missing"),
    "shards as a list": (lambda d: shard(d, ["a"]), "inside its directory"),
    "template not text": (
        lambda d: (d / "chat_template.json").write_text('{"chat_template": [1]}'),
        "neither a text",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage(directory, what):
    damage, complaint = DAMAGE[what]
    damage(directory)
    with pytest.raises(UserError, match=complaint) as caught:
        tinyqwenvl.load(directory)
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=60), st.integers(0, 2**64 - 1))
def test_no_header_crashes(tmp_path_factory, junk, length):
    path = tmp_path_factory.getbasetemp() / "junk.safetensors"
    for head in (b"", length.to_bytes(8, "little"), len(junk).to_bytes(8, "little")):
        path.write_bytes(head + junk)
        try:
            read_safetensors(path)
        except UserError as error:
            assert "\n" not in str(error)


def test_sources_that_are_no_directory(tmp_path, monkeypatch):
    for source in ("./nowhere", str(tmp_path / "nowhere"), __file__, "nowhere"):
        with pytest.raises(UserError, match="not a directory"):
            tinyqwenvl.load(source)
