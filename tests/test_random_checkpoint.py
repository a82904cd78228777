"""Random checkpoints of published sizes: config, shards, streamed weights, what is refused."""

import json
import math
import tracemalloc
import zlib
from collections import namedtuple
from functools import partial
from itertools import islice

import numpy as np
import pytest
import safetensors

import tinyqwenvl
from scripts import checkpoint_files, random_checkpoint
from scripts.random_checkpoint import main, random_bits, random_image
from tinyqwenvl.checkpoint import read_safetensors, to_float, weight_shapes
from tinyqwenvl.config import parse_config
from tinyqwenvl.model import user_message
from tinyqwenvl.presets import PRESETS, preset, preset_json
from tinyqwenvl.tokenizer import ADDED_TOKENS

SMALL = {
    "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 92, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
}  # fmt: skip


@pytest.fixture
def small(monkeypatch):
    """Published sizes with few dimensions: all names, ids and numbers of layers stay."""

    def narrow(name):
        raw = preset_json(name) | SMALL
        if raw["model_type"] == "qwen2_vl":
            vision = {"embed_dim": 48, "hidden_size": 64, "num_heads": 3}
        else:
            vision = {"hidden_size": 48, "intermediate_size": 76, "out_hidden_size": 64}
            vision |= {"num_heads": 3}
        raw["vision_config"] |= vision
        return raw

    monkeypatch.setattr(checkpoint_files, "preset_json", narrow)
    cut = partial(checkpoint_files.plan_shards, most=8_000_000)
    monkeypatch.setattr(random_checkpoint, "plan_shards", cut)


def written(folder, *words, name="qwen2.5-vl-3b"):
    """The directory that the command writes."""
    options = ("--preset", name, "--layers", "2", "--depth", "2", "-o", str(folder))
    assert main([*options, *map(str, words)]) == 0
    return folder


def refused(capsys, *words):
    """The one line that says what is wrong."""
    capsys.readouterr()
    assert main(list(map(str, words))) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


# ------------------------------------------------------------------ config and shards


@pytest.mark.parametrize("name", PRESETS)
def test_the_config_is_that_of_the_preset(name):
    raw = checkpoint_files.published_config(name)
    ours, plain = parse_config(raw), preset(name)
    assert (ours.text, ours.vision) == (plain.text, plain.vision)
    assert ours.tie_word_embeddings == plain.tie_word_embeddings
    ids = {token: 151643 + i for i, token in enumerate(ADDED_TOKENS)}
    assert raw["bos_token_id"] == ids["<|endoftext|>"]
    assert raw["eos_token_id"] == ids["<|im_end|>"]
    assert raw["vision_start_token_id"] == ids["<|vision_start|>"]
    assert raw["vision_end_token_id"] == ids["<|vision_end|>"]
    assert raw["image_token_id"] == ids["<|image_pad|>"]
    assert raw["video_token_id"] == ids["<|video_pad|>"]
    assert raw["max_position_embeddings"] == (128000 if "2.5" in name else 32768)


@pytest.mark.parametrize(("depth", "full"), [(32, [7, 15, 23, 31]), (16, [7, 15]), (5, [4])])
def test_a_cut_encoder_keeps_a_block_of_full_attention(depth, full):
    vision = checkpoint_files.published_config("qwen2.5-vl-3b", None, depth)["vision_config"]
    assert vision["depth"] == depth and vision["fullatt_block_indexes"] == full


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("qwen2-vl-2b", [3.99, 0.43]),
        ("qwen2.5-vl-3b", [3.98, 3.53]),
        ("qwen2.5-vl-7b", [3.90, 3.86, 3.86, 3.86, 1.09]),
    ],
)
def test_shards_have_the_published_sizes(name, sizes):
    shapes = weight_shapes(preset(name))
    plan = checkpoint_files.plan_shards(shapes)
    assert list(plan) == [
        f"model-{i:05}-of-{len(sizes):05}.safetensors" for i in range(1, len(sizes) + 1)
    ]
    assert sorted(name for names in plan.values() for name in names) == sorted(shapes)
    found = [sum(2 * math.prod(shapes[name]) for name in names) / 1e9 for names in plan.values()]
    assert found == pytest.approx(sizes, abs=0.005)


def test_norms_of_a_layer_come_after_its_mlp():
    order = list(checkpoint_files.module_order(weight_shapes(preset("qwen2-vl-7b"))))
    layer = [name.removeprefix("model.layers.1.") for name in order if ".layers.1." in name]
    assert layer[0] == "self_attn.q_proj.weight" and layer[-3] == "mlp.down_proj.weight"
    assert layer[-2:] == ["input_layernorm.weight", "post_attention_layernorm.weight"]
    assert order[-2:] == ["model.norm.weight", "lm_head.weight"]


# ------------------------------------------------------------------ weights


def values(name, shape, seed=0):
    return to_float(np.concatenate(list(random_bits(name, shape, seed)))).reshape(shape)


@pytest.mark.parametrize(
    ("name", "shape", "mean", "std"),
    [
        ("model.layers.0.mlp.down_proj.weight", (300, 1000), 0, 1000**-0.5),
        ("model.layers.0.self_attn.q_proj.weight", (1000, 300), 0, (2 / 300) ** 0.5),
        ("visual.blocks.0.attn.qkv.weight", (900, 300), 0, (2 / 300) ** 0.5),
        ("visual.patch_embed.proj.weight", (200, 3, 2, 14, 14), 0, 1176**-0.5),
        ("model.embed_tokens.weight", (1000, 256), 0, 1 / 16),
        ("model.layers.0.self_attn.q_proj.bias", (100_000,), 0, 0.2),
        ("model.norm.weight", (100_000,), 1, 0.2),
    ],
)
def test_weights_are_normal_and_scaled_by_their_fan_in(name, shape, mean, std):
    found = values(name, shape).astype(np.float64)
    assert abs(found.mean() - mean) < 5 * std / found.size**0.5
    assert found.std() == pytest.approx(std, rel=5 / found.size**0.5 + 2e-3)  # and bfloat16
    z = np.abs(found - mean) / std
    for sigmas, share in ((1, 0.3173), (2, 0.0455), (3, 0.0027)):
        assert np.mean(z > sigmas) == pytest.approx(share, rel=0.05, abs=6e-4)


def test_weights_depend_on_name_and_seed_and_on_nothing_else(monkeypatch):
    whole = values("a.weight", (70, 90))
    monkeypatch.setattr(random_checkpoint, "CHUNK", 1000)
    assert np.array_equal(values("a.weight", (70, 90)), whole)
    assert (
        zlib.crc32(np.ascontiguousarray(whole, "<f4").tobytes()) == 1640259659
    )  # the same everywhere
    for other in (values("b.weight", (70, 90)), values("a.weight", (70, 90), seed=1)):
        assert abs(np.corrcoef(other.ravel(), whole.ravel())[0, 1]) < 0.07
    rows = np.corrcoef(whole)[~np.eye(70, dtype=bool)]
    assert np.abs(rows).max() < 0.6  # no row is another's copy


@pytest.mark.skipif(not hasattr(safetensors, "TensorSpec"), reason="safetensors < 0.8 copies")
def test_memory_does_not_grow_with_the_model(tmp_path):
    shapes = {"model.embed_tokens.weight": (2**16, 2**10)}  # 128 MiB
    random_checkpoint.random_bits("warm", (1,), 0)
    tracemalloc.start()
    random_checkpoint.write_shard(tmp_path / "a.safetensors", list(shapes), shapes, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 48 * 2**20


# ------------------------------------------------------------------ the command


@pytest.mark.parametrize("name", ["qwen2-vl-7b", "qwen2.5-vl-3b"])
def test_it_answers_here_as_in_transformers(name, small, tmp_path, capsys):
    folder = written(tmp_path / "made", name=name)
    assert "qwen2" in capsys.readouterr().out
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted({*index["weight_map"].values()})
    assert len(files) > 2 and files == sorted(p.name for p in folder.glob("*.safetensors"))
    stored = {n: leaf for file in files for n, leaf in read_safetensors(folder / file).items()}
    model = tinyqwenvl.load(folder)
    assert {n: leaf.shape for n, leaf in stored.items()} == weight_shapes(model.config)
    assert index["metadata"]["total_size"] == sum(2 * leaf().size for leaf in stored.values())
    assert all(leaf.kind == "BF16" for leaf in stored.values())

    prompt = model.prepare(user_message(random_image(1, 84, 140), "Hello <|im_end|>"))
    ids = list(islice(model.generate(prompt, 8), 8))
    assert len(set(ids)) > 2 and model.tokenizer.decode(ids)
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from scripts.witness import Witness

    theirs = Witness(folder).generate(
        prompt.input_ids, prompt.pixel_values, prompt.image_grid_thw, n=len(ids)
    )
    assert theirs == ids


def test_the_first_layers_are_those_of_the_whole_model(small, tmp_path):
    two = tinyqwenvl.load(written(tmp_path / "two")).weights
    one = tinyqwenvl.load(written(tmp_path / "one", "--layers", "1")).weights
    other = tinyqwenvl.load(written(tmp_path / "other", "--seed", "1")).weights
    for a, b, same in ((two, one, True), (two, other, False)):
        weights = (w.model.layers[0].mlp.up_proj.weight for w in (a, b))
        assert np.array_equal(*weights) == same


def test_a_tokenizer_is_copied_when_it_is_given(small, tmp_path, capsys):
    source = written(tmp_path / "source")
    (source / "merges.txt").write_text("#version: 0.2\n")
    copy = written(tmp_path / "copy", "--tokenizer", source)
    assert (copy / "merges.txt").read_text() == "#version: 0.2\n"
    assert (copy / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    line = refused(capsys, "--preset", "qwen2.5-vl-3b", "-o", tmp_path / "no", "--tokenizer",
                   tinyqwenvl.model.EMBEDDED)  # fmt: skip
    assert "<|image_pad|> is not 151655" in line and not (tmp_path / "no").exists()


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--preset", "qwen3-vl-4b"), "unknown preset qwen3-vl-4b"),
        (("--preset", "qwen2.5-vl-3b", "--layers", "37"), "from 1 to 36"),
        (("--preset", "qwen2.5-vl-3b", "--depth", "0"), "from 1 to 32"),
        (("--preset", "qwen2.5-vl-3b", "--layers", "two"), "--layers"),
        (("--preset", "qwen2.5-vl-3b", "--seed", "-1"), "--seed -1"),
        (("--preset", "qwen2.5-vl-3b", "--tokenizer", "nowhere"), "nowhere has no tokenizer.json"),
        ((), "--preset"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert said in refused(capsys, *words, "-o", "out")
    assert not list(tmp_path.iterdir())


def test_an_existing_name_is_left_alone(tmp_path, capsys):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "folder", "link"):
        line = refused(capsys, "--preset", "qwen2.5-vl-3b", "-o", tmp_path / name)
        assert f"{name} exists already" in line
    assert "no directory" in refused(
        capsys, "--preset", "qwen2.5-vl-3b", "-o", tmp_path / "a" / "b"
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder", "link"]
    assert (tmp_path / "file").read_text() == "kept" and not list((tmp_path / "folder").iterdir())


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    tmp_path, monkeypatch, capsys
):
    usage = namedtuple("usage", "total used free")(10**10, 25 * 10**8, 75 * 10**8)
    monkeypatch.setattr(random_checkpoint.shutil, "disk_usage", lambda _: usage)
    line = refused(capsys, "--preset", "qwen2.5-vl-3b", "-o", tmp_path / "out")
    assert "7,500,000,000 are free" in line and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("problem", "code"), [(OSError(28, "No space left on device"), 2), (KeyboardInterrupt(), 130)]
)
def test_nothing_is_left_half_written(problem, code, small, tmp_path, monkeypatch):
    seen = []

    def break_off(file, names, *_):
        seen.append(names)
        if len(seen) == 2:
            assert not (tmp_path / "out").exists() and list(tmp_path.iterdir())
            raise problem
        file.write_bytes(b"something")

    monkeypatch.setattr(random_checkpoint, "write_shard", break_off)
    words = ["--preset", "qwen2.5-vl-3b", "--layers", "2", "--depth", "2"]
    assert main([*words, "-o", str(tmp_path / "out")]) == code
    assert len(seen) == 2 and not list(tmp_path.iterdir())
