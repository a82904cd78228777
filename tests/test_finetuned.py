"""What people's fine-tuning leaves behind: loaded, or named in one line."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import tinyqwenvl
from scripts.random_checkpoint import random_weights, tiny_config, write_checkpoint
from tinyqwenvl import UserError
from tinyqwenvl.__main__ import main
from tinyqwenvl.errors import CheckpointWarning

RAW = tiny_config("qwen2_5_vl")
WEIGHTS = random_weights(RAW, 5)
QUERY = "model.layers.0.self_attn.q_proj"
ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "Qwen/Qwen2.5-VL-3B-Instruct"}


@pytest.fixture
def directory(tmp_path):
    return write_checkpoint(tmp_path / "model", RAW, seed=5)


def config(**changes):
    return lambda d: (d / "config.json").write_text(json.dumps({**RAW, **changes}))


def adapter(alone, **more):
    def change(directory):
        if alone:
            shutil.rmtree(directory)
            directory.mkdir()
        (directory / "adapter_config.json").write_text(json.dumps(ADAPTER | more))
        (directory / "adapter_model.safetensors").write_bytes(b"")

    return change


def only_file(*names, keep_config=True):
    """No weights but these (empty) files."""

    def change(directory):
        (directory / "model.safetensors").unlink()
        if not keep_config:
            (directory / "config.json").unlink()
        for name in names:
            (directory / name).write_bytes(b"")

    return change


def weights(change, **settings):
    def rewrite(directory):
        config(**settings)(directory)
        save_file(change(dict(WEIGHTS)), directory / "model.safetensors", {"format": "pt"})

    return rewrite


def prefixed(prefix):
    return weights(lambda flat: {prefix + name: array for name, array in flat.items()})


def having(name, array):
    return lambda flat: {**flat, name: array}


AWQ = {"quant_method": "awq", "bits": 4}
CODES = np.ones((64, 8), np.int32)
REFUSED = {
    "adapter alone": (adapter(True), r"is an adapter \(LORA\) of Qwen/Qwen2.5-VL-3B-Instruct"),
    "adapter beside a model": (adapter(False), "next to a model, and adapters are not supported"),
    "adapter with modules": (
        adapter(True, modules_to_save=["lm_head", "embed_tokens"]),
        "with its own lm_head, embed_tokens",
    ),
    "adapter damaged": (lambda d: (d / "adapter_config.json").write_text("{"), "PEFT"),
    "LoRA inside": (
        weights(having(f"{QUERY}.lora_A.weight", np.ones((4, 64), np.float32))),
        f"{QUERY}.lora_A.weight belongs to an adapter",
    ),
    "modules_to_save inside": (
        weights(having("lm_head.modules_to_save.default.weight", np.ones((2, 2), np.float32))),
        "belongs to an adapter that was saved inside",
    ),
    "base layer inside": (
        weights(having(f"{QUERY}.base_layer.weight", np.ones((64, 64), np.float32))),
        "belongs to an adapter",
    ),
    "DoRA inside": (
        weights(having(f"{QUERY}.lora_magnitude_vector.weight", np.ones(64, np.float32))),
        "belongs to an adapter",
    ),
    "peft's names": (prefixed("base_model.model."), "begin with base_model.model. which peft adds"),
    "compiled names": (prefixed("_orig_mod."), "begin with _orig_mod. which torch.compile adds"),
    "parallel names": (prefixed("module."), "begin with module. which DataParallel"),
    "FSDP's names": (prefixed("_fsdp_wrapped_module."), "which FSDP adds"),
    "Omni's names": (prefixed("thinker."), "another model"),
    "text model alone": (
        weights(lambda flat: {n: a for n, a in flat.items() if not n.startswith("visual.")}),
        "only the text model, without the vision encoder",
    ),
    "vision encoder alone": (
        weights(lambda flat: {n: a for n, a in flat.items() if n.startswith("visual.")}),
        "only the vision encoder, without the text model",
    ),
    "no head": (
        weights(lambda flat: {n: a for n, a in flat.items() if n != "lm_head.weight"}),
        "lack lm_head.weight; fetch it too, or set tie_word_embeddings",
    ),
    "no embedding": (
        weights(lambda flat: {n: a for n, a in flat.items() if "embed_tokens" not in n}),
        "lack model.embed_tokens.weight",
    ),
    "a bias too many": (
        weights(having("model.layers.0.self_attn.o_proj.bias", np.ones(64, np.float32))),
        "unknown weight model.layers.0.self_attn.o_proj.bias",
    ),
    "more tokens than the config": (config(vocab_size=290), "config.json requires"),
    "resized embeddings": (config(vocab_size=310), "config.json requires"),
    "AWQ": (
        weights(having(f"{QUERY}.qweight", CODES), quantization_config=AWQ),
        rf"quantised \(awq\): {QUERY}.qweight belongs to quantised weights",
    ),
    "integers": (
        weights(having(f"{QUERY}.weight", CODES), quantization_config=AWQ),
        rf"quantised \(awq\): {QUERY}.weight is stored as I32",
    ),
    "float8": (
        weights(having(f"{QUERY}.weight", np.ones((64, 64), ml_dtypes.float8_e4m3fn))),
        f"{QUERY}.weight is stored as F8_E4M3",
    ),
    "float8 scales": (
        weights(having(f"{QUERY}.weight_scale_inv", np.ones((1, 1), np.float32))),
        "belongs to quantised weights",
    ),
    "bitsandbytes": (
        weights(having(f"{QUERY}.weight.absmax", np.ones(4, np.float32))),
        "belongs to quantised weights",
    ),
    "pickled": (only_file("pytorch_model.bin"), "is a torch pickle, which is never loaded"),
    "pickled shards": (only_file("pytorch_model-00001-of-00002.bin"), "is a torch pickle"),
    "GGUF": (only_file("model-q4.gguf"), "is GGUF, for llama.cpp"),
    "GGUF and no config": (only_file("model-q4.gguf", keep_config=False), "is GGUF"),
    "DeepSpeed": (only_file("zero_to_fp32.py"), "python zero_to_fp32.py"),
    "FSDP": (only_file("__0_0.distcp"), "accelerate merge-weights"),
    "shards without an index": (
        only_file("model-00001-of-00002.safetensors"),
        "but not model.safetensors.index.json",
    ),
    "a run's directory": (
        lambda d: only_file(keep_config=False)(d) or (d / "checkpoint-500").mkdir(),
        "such as checkpoint-500",
    ),
    "Qwen3-VL": (config(model_type="qwen3_vl"), "another architecture"),
    "Qwen2 text": (config(model_type="qwen2"), "only a text model"),
    "text part": (config(model_type="qwen2_5_vl_text"), "only a text model"),
    "llava": (config(model_type="llava"), "model_type is 'llava'; supported are"),
    "layer kinds": (config(layer_types=["sliding_attention"] * 3), "only full_attention"),
    "rope of layers": (
        config(rope_scaling={"full_attention": {"rope_type": "default"}}),
        "differ between kinds of layers",
    ),
    "head_dim": (config(text_config={**RAW, "head_dim": 32}), "head_dim is 32"),
    "half nested": (config(text_config={"rope_theta": 1e4}), "lacks 'hidden_size'"),
    "vision rope": (
        config(vision_config={**RAW["vision_config"], "rope_parameters": {"rope_type": "linear"}}),
        "vision rope_type is 'linear'",
    ),
    "no full blocks said": (
        config(vision_config={**RAW["vision_config"], "fullatt_block_indexes": None}),
        "wrong type",
    ),
    "vision width": (
        config(vision_config={**RAW["vision_config"], "intermediate_size": 80}),
        "config.json requires",
    ),
    "vision depth": (config(vision_config={**RAW["vision_config"], "depth": 3}), "unknown weight"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_named_in_one_line(what, directory, capsys):
    change, complaint = REFUSED[what]
    change(directory)
    with pytest.raises(UserError, match=complaint) as caught:
        tinyqwenvl.load(directory)
    assert "\n" not in str(caught.value)
    assert main(["run", "what?", "-m", str(directory)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {caught.value}"


@pytest.mark.parametrize("method", ["bitsandbytes", "fp8", "compressed-tensors"])
def test_a_merged_save_that_still_says_quantised_is_read_with_a_note(method, directory):
    prompt = [{"role": "user", "content": "what?"}]
    plain = tinyqwenvl.load(directory)
    config(quantization_config={"quant_method": method})(directory)
    with pytest.warns(
        CheckpointWarning, match=rf"declares quantisation \({method}\), but the tensors are"
    ):
        merged = tinyqwenvl.load(directory)
    expected = plain.forward(plain.prepare(prompt))
    np.testing.assert_array_equal(merged.forward(merged.prepare(prompt)), expected)


def test_a_head_of_its_own_is_used_with_a_note_on_the_command_line(directory, capsys):
    config(tie_word_embeddings=True)(directory)
    assert main(["run", "what?", "-m", str(directory), "-n", "2"]) == 0
    assert "note: " in (told := capsys.readouterr().err) and "its own head, which is used" in told
    weights(lambda flat: {**flat, "lm_head.weight": flat["model.embed_tokens.weight"].copy()},
            tie_word_embeddings=True)(directory)  # fmt: skip
    assert main(["run", "what?", "-m", str(directory), "-n", "2"]) == 0
    assert "head" not in capsys.readouterr().err
