"""Odd checkpoints: what transformers makes of each, and we too."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import tinyqwenvl  # noqa: E402
from scripts.random_checkpoint import (  # noqa: E402
    random_image,
    random_weights,
    tiny_config,
    write_checkpoint,
)
from scripts.witness import Witness  # noqa: E402
from tinyqwenvl import compat  # noqa: E402
from tinyqwenvl.model import user_message  # noqa: E402

RAW = tiny_config("qwen2_5_vl")
TIED = {**RAW, "tie_word_embeddings": True}
WEIGHTS = random_weights(RAW, 5)
HEADLESS = {name: array for name, array in WEIGHTS.items() if name != "lm_head.weight"}
EMBEDDING = WEIGHTS["model.embed_tokens.weight"]
ROOT = ("architectures", "model_type", "vision_config", "tie_word_embeddings", "image_token_id",
        "video_token_id", "vision_start_token_id", "vision_end_token_id")  # fmt: skip
TEXT = {name: value for name, value in RAW.items() if name not in ROOT}
TIE = "tie_word_embeddings"
TEXT_TIED = {**TEXT, TIE: True}
NESTED = {**{name: RAW[name] for name in ROOT}, "text_config": TEXT}


def vision(**changes):
    return {**RAW, "vision_config": {**RAW["vision_config"], **changes}}


def rope(**changes):
    return {**RAW, "rope_scaling": {"mrope_section": [2, 3, 3], **changes}}


def renamed(there, here):
    return {n.replace(there, here, 1) if n.startswith(there) else n: a for n, a in HEADLESS.items()}


def without(raw, *names):
    return {name: value for name, value in raw.items() if name not in names}


CASES = {
    "plain": (RAW, WEIGHTS),
    "tied, and a head of its own": (TIED, WEIGHTS),
    "tied, and an equal head": (TIED, {**HEADLESS, "lm_head.weight": EMBEDDING.copy()}),
    "tied, and a head in the place of the embedding": (
        TIED,
        without(WEIGHTS, "model.embed_tokens.weight"),
    ),
    "tied in text_config alone": (
        {**NESTED, "tie_word_embeddings": False, "text_config": TEXT_TIED},
        HEADLESS,
    ),
    "tied at the root alone": (
        {**NESTED, "tie_word_embeddings": True, "text_config": TEXT_TIED | {TIE: False}},
        HEADLESS,
    ),
    "tied in text_config, and a head of its own": (
        {**NESTED, "text_config": TEXT_TIED},
        WEIGHTS,
    ),
    "nested": (NESTED, WEIGHTS),
    "nested, theta at the root": (
        {**NESTED, "rope_theta": 10000.0, "text_config": without(TEXT, "rope_theta")},
        WEIGHTS,
    ),
    "null text_config": ({**RAW, "text_config": None}, WEIGHTS),
    "theta absent": (without(RAW, "rope_theta"), WEIGHTS),
    "eight heads shared where nothing is said": (
        without({**RAW, "num_attention_heads": 8, "rope_scaling": {"mrope_section": [1, 1, 2]}},
                "num_key_value_heads"),
        None,
    ),
    "all heads shared where null": ({**RAW, "num_key_value_heads": None}, None),
    "head_dim at the root": ({**RAW, "head_dim": 32}, WEIGHTS),
    "layer types": ({**RAW, "layer_types": ["full_attention"] * 3}, WEIGHTS),
    "rope type mrope": (rope(rope_type="mrope"), WEIGHTS),
    "rope type of neither name": (rope(), WEIGHTS),
    "rope with a factor": (rope(type="mrope", factor=4.0), WEIGHTS),
    "rope interleaved, which is Qwen3's": (rope(mrope_interleaved=True), WEIGHTS),
    "vision theta": (vision(rope_theta=100.0), WEIGHTS),
    "vision rope_parameters": (vision(rope_parameters={"rope_theta": 100.0}), WEIGHTS),
    "vision rope_scaling": (vision(rope_scaling={"rope_theta": 5.0, "type": "axial"}), WEIGHTS),
    "vision eps": (vision(rms_norm_eps=0.1), WEIGHTS),
    "vision in_chans": (vision(in_chans=4), WEIGHTS),
    "vision window": (vision(window_size=56), WEIGHTS),
    "no window": ({**RAW, "vision_config": without(RAW["vision_config"], "window_size")}, WEIGHTS),
    "no full blocks": (vision(fullatt_block_indexes=[]), WEIGHTS),
    "default full blocks": (
        {**RAW, "vision_config": without(RAW["vision_config"], "fullatt_block_indexes")},
        WEIGHTS,
    ),
    "names of the model without its head": (TIED, renamed("model.", "language_model.")),
    "model. twice": (TIED, {f"model.{name}": array for name, array in HEADLESS.items()}),
    "rotary tables": (
        TIED,
        {**HEADLESS, "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CASES)
def test_what_transformers_reads_we_read(what, tmp_path):
    raw, weights = CASES[what]
    directory = write_checkpoint(tmp_path / "model", RAW if weights is not None else raw, 5)
    (directory / "config.json").write_text(json.dumps(raw))
    if weights is not None:
        save_file(weights, directory / "model.safetensors", {"format": "pt"})
    with warnings.catch_warnings(record=True) as notes:
        ours = tinyqwenvl.load(directory)
    assert bool(notes) == ("a head of its own" in what)
    inputs = ours.prepare(user_message(random_image(1, 90, 200), "what?"))
    allowed = {"model.language_model.layers.0.self_attn.rotary_emb.inv_freq"}
    theirs = Witness(directory, allowed_names=allowed)
    arguments = theirs.inputs(inputs.input_ids, inputs.pixel_values, inputs.image_grid_thw)
    with torch.no_grad():
        expected = theirs.model(**arguments).logits[0].numpy()
    np.testing.assert_allclose(ours.forward(inputs), expected, atol=2e-3 * np.std(expected))


def test_the_head_of_transformers_4_by_name(tmp_path):
    directory = write_checkpoint(tmp_path / "model", RAW, 5)
    (directory / "config.json").write_text(json.dumps(TIED))
    with pytest.warns(tinyqwenvl.errors.CheckpointWarning, match="its own head, which is used"):
        ours = tinyqwenvl.load(directory)
    older = replace(ours, weights=compat.tied_head(ours.weights))
    inputs = ours.prepare(user_message(None, "what?"))
    own, embedding = ours.forward(inputs), older.forward(inputs)
    save_file(HEADLESS, directory / "model.safetensors", {"format": "pt"})
    tied = tinyqwenvl.load(directory)
    np.testing.assert_array_equal(embedding, tied.forward(inputs))
    assert np.abs(own - embedding).max() > 0.1
