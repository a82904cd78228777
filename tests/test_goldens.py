"""Every stage against what transformers computed; scripts/make_goldens.py remakes the files."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

import tinyqwenvl
from scripts.random_checkpoint import (
    random_image,
    tiny_config,
    with_images,
    write_checkpoint,
)
from tinyqwenvl.image import normalise, patchify
from tinyqwenvl.oracle.metrics import distance

FILES = sorted((Path(__file__).parent / "goldens").glob("qwen2*.safetensors"))
PROMPT = ("input_ids", "generated", "image_grid_thw", "pixel_values.last48")
EXACT = ("window_index", "cu_window_seqlens", "position_ids")
# Twelve times the largest of all stages of all files, of both forms, measured with OpenBLAS: NMSE
# 8.8e-12, 1 - cosine 6.9e-11, error 3.1e-5 standard deviations.
BOUND = {"nmse": 1.1e-10, "cosine": 1 - 8.3e-10, "max_error": 3.7e-4}


def read(path):
    with safe_open(path, "numpy") as file:
        return json.loads(file.metadata()["case"]), {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118


@pytest.fixture(scope="module", params=FILES, ids=lambda p: p.stem)
def golden(request, tmp_path_factory):
    """The case, the witness's arrays, and our model of the same weights."""
    case, arrays = read(request.param)
    directory = tmp_path_factory.mktemp("golden")
    write_checkpoint(directory, tiny_config(case["model_type"]), case["weights_seed"])
    return case, arrays, directory


def run(case, directory, reference):
    model = tinyqwenvl.load(directory, reference=reference)
    with tinyqwenvl.trace() as stages:
        if "frames" in case:
            count, height, width = case["frames"]
            frames = np.stack([random_image(50 + i, height, width) for i in range(count)])
            model.image_features(patchify(normalise(frames))[0], np.array(case["grid"]))
            return model, None, stages
        images = [random_image(10 + i, *size) for i, size in enumerate(case["pictures"])]
        inputs = model.prepare([{"role": "user", "content": with_images(case["content"], images)}])
        logits = model.forward(inputs)
    return model, inputs, {**stages, "logits": [logits]}


@pytest.mark.parametrize("reference", [False, True], ids=["fast", "reference"])
def test_every_stage(golden, reference):
    case, arrays, directory = golden
    _, _, stages = run(case, directory, reference)
    compared = 0
    for name, expected in arrays.items():
        if name in PROMPT:
            continue
        (ours,) = stages[name]
        if name.endswith(EXACT):
            np.testing.assert_array_equal(ours, expected, err_msg=name)
        else:
            apart = distance(ours, expected)
            assert apart.within(**BOUND), (name, apart)
        compared += 1
    assert compared == len(arrays) - sum(n in arrays for n in PROMPT) >= 20


PROMPTED = [path for path in FILES if not path.stem.endswith("video")]  # the vision encoder alone


@pytest.mark.parametrize("golden", PROMPTED, ids=lambda p: p.stem, indirect=True)
def test_prompt_pixels_and_greedy_ids(golden):
    case, arrays, directory = golden
    model, inputs, _ = run(case, directory, reference=False)
    np.testing.assert_array_equal(inputs.input_ids, arrays["input_ids"])
    if case["pictures"]:
        np.testing.assert_array_equal(inputs.image_grid_thw, arrays["image_grid_thw"])
        np.testing.assert_array_equal(inputs.pixel_values[-48:], arrays["pixel_values.last48"])
        found = hashlib.sha256(inputs.pixel_values.tobytes()).hexdigest()
        assert found == case["pixel_values.sha256"]
    endless = replace(model, config=replace(model.config, eos_token_ids=()))
    assert list(endless.generate(inputs, 32)) == arrays["generated"].tolist()


def test_the_goldens_are_sharp():
    """Both families, images and text and time; written by a witness that is named."""
    assert len(FILES) == 6
    for path in FILES:
        case, _ = read(path)
        assert set(case["versions"]) == {"transformers", "torch", "pillow", "numpy"}
        assert case["command"]


def test_a_missing_rotary_embedding_fails(golden, monkeypatch):
    """The bug that correlation misses, in the vision encoder; or in the decoder, of text alone."""
    case, arrays, directory = golden
    images = "visual.patch_embed" in arrays
    right, wrong = (
        ("visual.patch_embed", "visual.blocks.0")
        if images
        else ("model.layers.0.input_layernorm", "model.layers.0")
    )
    monkeypatch.setattr("tinyqwenvl.nn.rotate", lambda x, cos, sin: x)
    _, _, stages = run(case, directory, reference=False)
    assert distance(stages[right][0], arrays[right]).within(**BOUND)
    assert not distance(stages[wrong][0], arrays[wrong]).within(**BOUND)
