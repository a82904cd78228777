"""Dumps of Hugging Face's models; skipped without transformers 5.23 or later."""

import collections
import copy
import re

import numpy as np
import pytest
from support import rounding

from scripts.random_checkpoint import tiny_config, write_checkpoint
from tinyqwenvl.oracle.metrics import distance
from tinyqwenvl.oracle.readers import open_dump

torch = pytest.importorskip("torch", reason="PyTorch is not installed", exc_type=ImportError)

from tinyqwenvl.oracle import torch as oracle_torch  # noqa: E402
from tinyqwenvl.oracle.torch import instrument  # noqa: E402

HIDDEN = {"pixel_values", "image_grid_thw", "input_ids", "model.rope_delta"}
HIDDEN |= {"model.position_ids", "model.inputs_embeds", "visual.cu_seqlens", "visual.rotary_angles"}
WINDOWS = {"visual.window_index", "visual.cu_window_seqlens"}


# Twelve times the largest of all stages of both families, measured with torch 2.13 and transformers
# 5.24 (4.3e-12, 3.1e-11, 1.6e-5).
BOUND = {"nmse": 5.2e-11, "cosine": 1 - 3.8e-10, "max_error": 1.9e-4}


def same(ours, entry):
    assert entry.shape == np.shape(ours), entry.key
    if entry.exact:
        np.testing.assert_array_equal(entry.read(), ours, err_msg=entry.key)
    else:
        far = distance(np.asarray(ours), entry.read())
        assert far.within(**BOUND), (entry.key, far)


def test_every_call_of_every_module_is_there(case, dumped):
    witness, given, _, _ = case
    called = collections.Counter()
    hooks = [
        m.register_forward_hook(lambda *_, n=n: called.update([n]))
        for n, m in witness.model.named_modules()
        if n
    ]
    with torch.no_grad():
        witness.model(**given)
    for hook in hooks:
        hook.remove()
    found = collections.Counter(entry.name for entry in dumped)
    for name, count in called.items():
        assert found[oracle_torch.canonical(name)] == count, name
    newer = WINDOWS if witness.config.model_type == "qwen2_5_vl" else set()
    further = {n for n in found if n not in map(oracle_torch.canonical, called)}
    assert further - HIDDEN - newer <= {"visual.rotary_pos_emb.1", "model.rotary_emb.1"}
    assert dumped.notes == [] and dumped.about["made_by"]["transformers"]


def test_every_stage_is_near_ours(case, dumped):
    _, _, stages, _ = case
    alone = r".*\.(q|k|v|key_ranges|context)|image\..*"
    compared = {name for name in stages if not re.fullmatch(alone, name)}
    for name in compared:
        same(stages[name][0], dumped.get(name))
    assert compared >= HIDDEN and len(compared) > 80


def test_what_a_stage_was_made_of_is_found_by_name(case, dumped):
    last = dumped.get("visual.blocks.1")
    assert last.info["inputs"]["hidden_states"] == "visual.blocks.0"
    assert last.info["inputs"]["cu_seqlens"] == "visual.cu_seqlens"
    assert dumped.get("model.layers.0").info["inputs"]["hidden_states"] == "model.inputs_embeds"
    cosines = last.info["inputs"]["position_embeddings.0"]
    assert cosines == dumped.get("visual.blocks.3").info["inputs"]["position_embeddings.0"]
    angles = dumped["visual.rotary_angles"]
    off = rounding(8, np.float32)  # each library is within a few units in the last place of 1
    cosine = dumped[cosines][:, : angles.shape[1]]
    np.testing.assert_allclose(cosine, np.cos(angles), rtol=0, atol=off)
    for entry in dumped:
        for key in entry.info["inputs"].values():
            assert dumped[key] is not None


def test_settings_are_kept(case, dumped):
    assert dumped.get("visual.blocks.0.attn").info["settings"]["num_heads"] == 3
    norm = dumped.get("model.layers.0.input_layernorm").info["settings"]
    assert norm["variance_epsilon"] == 1e-2 and "RMSNorm" in norm["class"]
    linear = dumped.get("model.layers.0.mlp.up_proj").info["settings"]
    assert linear["in_features"] == 64 and "bias=False" in linear["repr"]


def test_the_encoder_alone(case, tmp_path):
    witness, given, stages, _ = case
    vision_encoder = witness.model.model.visual
    pixels, grids = given["pixel_values"], given["image_grid_thw"]
    with torch.no_grad(), instrument(vision_encoder, tmp_path / "a.safetensors", inputs=False):
        vision_encoder(pixels, grid_thw=grids)
        vision_encoder(pixels[: 10 * 6], grid_thw=grids[:1])
    dump = open_dump(tmp_path / "a.safetensors")
    for name in (n for n in stages if n == "visual" or n.startswith("visual.")):
        if not re.fullmatch(r".*\.(q|k|v|key_ranges|context)", name):
            same(stages[name][0], dump.get(name))
    assert dump.get("visual", 1).shape == (15, 64)  # the second call, beside the first
    assert dump.get("visual.cu_seqlens", 1).read().tolist() == [0, 60]
    assert {"pixel_values", "image_grid_thw"} <= {entry.name for entry in dump}
    assert not dump.inputs


def test_part_of_an_encoder_gets_the_name_that_is_told(case, tmp_path):
    witness, _, _, _ = case
    norm = witness.model.model.visual.blocks[2].norm1
    with instrument(norm, tmp_path / "a.safetensors", prefix="visual.blocks.2.norm1"):
        norm(torch.ones(4, 48))
    assert [e.key for e in open_dump(tmp_path / "a.safetensors")] == ["visual.blocks.2.norm1"]


def test_generating_gives_a_call_a_step(case, tmp_path):
    witness, given, _, inputs = case
    stages = ["model.position_ids", "model.layers.1.*", "lm_head", "model.rope_delta"]
    with instrument(witness.model, tmp_path / "a.safetensors", stages):
        out = witness.model.generate(
            **given, max_new_tokens=4, min_new_tokens=4, do_sample=False, eos_token_id=None
        )
    dump = open_dump(tmp_path / "a.safetensors")
    length = len(inputs.input_ids)
    assert dump.get("model.layers.1.self_attn").shape == (length, 64)
    for step in (1, 2, 3):
        assert dump.get("model.layers.1.self_attn", step).shape == (1, 64)
        assert dump.get("lm_head", step).shape == (1, 300)
        place = length + step - 1 + inputs.rope_delta
        assert dump[f"model.position_ids#{step}"].tolist() == [[place]] * 3
    generated = [int(e.read()[0]) for e in dump if e.name == "generated"]
    assert generated == out[0, length:-1].tolist()
    assert dump.get("input_ids", 1) is None and dump.get("pixel_values", 1) is None
    np.testing.assert_array_equal(dump["model.position_ids"], inputs.position_ids)


def test_one_dimensional_positions_are_noted(case, tmp_path):
    witness, given, _, inputs = case
    """Qwen2-VL refuses such a call, from transformers 5.23 on."""
    without = {n: v for n, v in given.items() if n != "mm_token_type_ids"}
    if witness.config.model_type == "qwen2_vl":
        with pytest.raises(ValueError, match="mm_token_type_ids"):
            witness.model.model(**without)
        return
    with torch.no_grad(), instrument(witness.model, tmp_path / "a.safetensors", "model.*"):
        witness.model.model.rope_deltas = None
        witness.model(**without)
    dump = open_dump(tmp_path / "a.safetensors")
    (note,) = dump.notes
    assert "1-D" in note and "mm_token_type_ids was not given" in note
    line = np.arange(len(inputs.input_ids))
    np.testing.assert_array_equal(dump["model.position_ids"], np.stack([line] * 3))


def test_a_mask_is_written_once_if_there_is_one(case, tmp_path):
    witness, given, _, inputs = case
    padded = given | {"attention_mask": given["attention_mask"].clone()}
    padded["attention_mask"][0, 0] = 0
    with torch.no_grad(), instrument(witness.model, tmp_path / "a.safetensors", "model.layers.*"):
        witness.model(**padded)
    dump = open_dump(tmp_path / "a.safetensors")
    assert [e.key for e in dump if e.name.endswith("mask")] == ["model.layers.0.self_attn.mask"]
    assert dump.get("model.layers.0.self_attn.mask").shape == (len(inputs.input_ids),) * 2
    for i in range(3):
        made_of = dump.get(f"model.layers.{i}.self_attn").info["inputs"]
        assert made_of["attention_mask"] == "model.layers.0.self_attn.mask"


def test_one_row_of_positions_is_three(case, tmp_path):
    witness, _, _, _ = case
    text = witness.model.model.language_model
    line = torch.arange(3, 8)[None, None]
    with torch.no_grad(), instrument(text, tmp_path / "a.safetensors"):
        text(inputs_embeds=torch.ones(1, 5, 64), position_ids=line)
    dump = open_dump(tmp_path / "a.safetensors")
    assert dump["model.position_ids"].tolist() == [[3, 4, 5, 6, 7]] * 3
    assert dump.get("model.layers.2").shape == (5, 64) and dump.get("model").shape == (5, 64)


def test_another_model_is_not_watched(case, tmp_path):
    witness, given, _, _ = case
    vision_encoder = witness.model.model.visual
    other = copy.deepcopy(vision_encoder)
    pixels, grids = given["pixel_values"], given["image_grid_thw"]
    with torch.no_grad(), instrument(vision_encoder, tmp_path / "a.safetensors"):
        for each in (other, vision_encoder, other):
            each(pixels, grid_thw=grids)
    assert all(entry.call == 0 for entry in open_dump(tmp_path / "a.safetensors"))


def test_a_larger_batch_is_kept(case, tmp_path):
    witness, _, _, _ = case
    ids = torch.arange(12).reshape(2, 6)
    with torch.no_grad(), instrument(witness.model, tmp_path / "a.safetensors", "model.*"):
        witness.model(input_ids=ids)
    dump = open_dump(tmp_path / "a.safetensors")
    assert dump.get("model.layers.0").shape == (2, 6, 64)
    assert dump.get("input_ids").shape == (2, 6)


def test_bfloat16_is_stored_as_such(case, hf, tmp_path, family):
    _, given, stages, _ = case
    directory = tmp_path / "checkpoint"
    write_checkpoint(directory, tiny_config(family), seed=8)
    witness = hf.Witness(directory, torch.bfloat16)
    with torch.no_grad(), instrument(witness.model, tmp_path / "a.safetensors"):
        out = witness.model(**given | {"pixel_values": given["pixel_values"].bfloat16()})
    dump = open_dump(tmp_path / "a.safetensors")
    entry = dump.get("lm_head")
    assert entry.dtype == "bfloat16" and not entry.exact and entry.info["dtype"] == "bfloat16"
    np.testing.assert_array_equal(entry.read(), out.logits[0].float().numpy())
    np.testing.assert_array_equal(dump["visual.cu_seqlens"], stages["visual.cu_seqlens"][0])
    assert dump.notes == []


def test_a_failure_leaves_no_file_and_no_hook(case, tmp_path):
    witness, given, _, _ = case
    model = witness.model
    vision_encoder = model.model.visual
    around = __import__("sys").modules[type(vision_encoder).__module__]

    def state():
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
        functions = [getattr(around, "get_vision_window_index", None)]
        return hooks, [sorted(vars(m)) for m in (model, model.model, vision_encoder)], functions

    before = state()
    with pytest.raises(ZeroDivisionError), instrument(model, tmp_path / "a.safetensors"):
        assert state() != before
        with torch.no_grad():
            model(**given)
        raise ZeroDivisionError
    assert state() == before and list(tmp_path.iterdir()) == []
