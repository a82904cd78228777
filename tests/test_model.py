from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support import assert_same_but_for_rounding, max_examples, rounding

import tinyqwenvl
from scripts.random_checkpoint import TOKEN_IDS, random_image, tiny_config, write_checkpoint
from tinyqwenvl import UserError, nn
from tinyqwenvl.image_cache import ImageCache
from tinyqwenvl.model import user_message

IMAGES = [random_image(1, 150, 210), random_image(2, 60, 240)]


@pytest.fixture(scope="module")
def inputs(model):
    return model.prepare(user_message(IMAGES, "what is different?"))


def test_prepare(model, inputs, family):
    counts = np.prod(inputs.image_grid_thw, axis=1) // 4
    assert inputs.image_grid_thw.tolist() == [[1, 10, 16], [1, 4, 18]]
    assert np.sum(inputs.input_ids == TOKEN_IDS["<|image_pad|>"]) == sum(counts)
    assert inputs.pixel_values.shape == (4 * sum(counts), 1176)
    assert inputs.position_ids.shape == (3, len(inputs.input_ids))
    assert inputs.rope_delta == inputs.position_ids.max() + 1 - len(inputs.input_ids)


def test_cached_logits_equal_uncached_ones(model, exact_model, inputs):
    """Token by token after the image, at the positions that decoding gives them."""
    full, exact = model.forward(inputs), exact_model.forward(inputs)
    embeds = model.embed(inputs)
    for cut in (len(full) - 12, len(full) - 1):
        cache = nn.KVCache()
        first = model.next_logits(embeds[:cut], inputs.position_ids[:, :cut], cache)
        steps = [first]
        for i in range(cut, len(full)):
            position = np.full((3, 1), i + inputs.rope_delta)
            np.testing.assert_array_equal(position, inputs.position_ids[:, i : i + 1])
            steps.append(model.next_logits(embeds[i : i + 1], position, cache))
        assert_same_but_for_rounding(np.stack(steps), full[cut - 1 :], exact[cut - 1 :])


def test_generation_equals_recomputing_everything(model, inputs):
    """Greedy ids with the cache are those of a fresh forward pass over the growing prompt."""
    endless = replace(model, config=replace(model.config, eos_token_ids=()))
    ids = list(endless.generate(inputs, 5))
    grown = inputs
    for token in ids:
        assert int(np.argmax(model.forward(grown)[-1])) == token
        position = np.full((3, 1), len(grown.input_ids) + inputs.rope_delta)
        grown = replace(
            grown,
            input_ids=np.append(grown.input_ids, token),
            position_ids=np.concatenate([grown.position_ids, position], axis=1),
        )


def test_reference_model_equals_optimised_model(checkpoint, model, exact_model, inputs):
    reference = tinyqwenvl.load(checkpoint, reference=True)
    assert_same_but_for_rounding(
        reference.forward(inputs), model.forward(inputs), exact_model.forward(inputs)
    )


def test_stop_token_and_limit(model, inputs):
    endless = replace(model, config=replace(model.config, eos_token_ids=()))
    generation = endless.generate(inputs, 6)
    ids = list(generation)
    assert list(generation) == ids  # afresh, with a cache of its own
    assert (len(ids), generation.finish_reason) == (6, "length")
    assert set(generation.timings) == {"vision", "prefill", "decode"}
    stopping = replace(model, config=replace(model.config, eos_token_ids=(ids[3],)))
    generation = stopping.generate(inputs, 6)
    assert list(generation) == ids[: ids.index(ids[3])]
    assert generation.finish_reason == "stop"


def test_trace_names_are_checkpoint_paths(model, inputs, family):
    with tinyqwenvl.trace() as stages:
        model.prepare(user_message(IMAGES, "?"))
        model.forward(inputs)
    tensors = set(tinyqwenvl.flatten(model.weights))
    modules = {name.rsplit(".", 1)[0] for name in tensors}
    owned = {name for name in stages if name in modules}
    assert {"visual.blocks.0.attn.qkv", "model.layers.0.self_attn.q_proj", "lm_head"} <= owned
    for name in set(stages) - owned:  # a parent of modules, or a tensor without an owner
        part_of_attention = name.rsplit(".", 1)[-1] in ("q", "k", "v", "key_ranges", "context")
        assert (
            part_of_attention
            or any(m.startswith(name + ".") for m in modules)
            or name
            in {
                "image.rgb",
                "image.resize",
                "image.normalise",
                "image.nine_dimensions",
                "image_grid_thw",
                "pixel_values",
                "input_ids",
                "visual.cu_seqlens",
                "visual.window_index",
                "visual.cu_window_seqlens",
                "visual.rotary_angles",
                "model.position_ids",
                "model.inputs_embeds",
            }
        )
    for name in ("image.rgb", "image.resize", "image.normalise", "image.nine_dimensions"):
        assert len(stages.pop(name)) == len(IMAGES)
    assert all(len(calls) == 1 for calls in stages.values())
    assert ("visual.window_index" in stages) == (family == "qwen2_5_vl")
    with tinyqwenvl.trace("visual.blocks.?") as few:
        model.forward(inputs)
    assert set(few) == {f"visual.blocks.{i}" for i in range(4)}
    with tinyqwenvl.trace() as none:
        pass
    assert not none


def test_attention_weights_are_what_attention_used(model, exact_model, inputs):
    """The weights times the values give the stage's output, for a block of each part."""
    for stage, heads in (("visual.blocks.1.attn", [0, 2]), ("model.layers.1.self_attn", [1, 3])):
        with tinyqwenvl.trace(f"{stage}*") as seen:
            model.forward(inputs)
        with tinyqwenvl.trace(stage) as exact:
            exact_model.forward(inputs)
        weights = model.attention_weights(inputs, stage)
        some = model.attention_weights(inputs, stage, heads=heads, rows=slice(5, 9))
        assert model.attention_weights(inputs, stage, heads=0, rows=-1).shape[:2] == (1, 1)
        exact_weights = exact_model.attention_weights(inputs, stage)[heads][:, 5:9]
        assert_same_but_for_rounding(some, weights[heads][:, 5:9], exact_weights)
        keys = rounding(weights.shape[-1], np.float32)  # a sum of so many, and a quotient
        np.testing.assert_allclose(weights.sum(axis=-1, dtype=float), 1, rtol=keys)
        seen_heads, rows, _ = weights.shape
        if "visual" in stage:
            v = seen[f"{stage}.qkv"][0].reshape(rows, 3, seen_heads, -1)[:, 2]
            out = model.weights.visual.blocks[1].attn.proj
        else:
            v = seen[f"{stage}.v_proj"][0].reshape(rows, 2, -1).repeat(seen_heads // 2, axis=1)
            out = model.weights.model.layers[1].self_attn.o_proj
        mixed = np.einsum("ask,kad->sad", weights, v).reshape(rows, -1)
        assert_same_but_for_rounding(nn.linear(mixed, out), seen[stage][0], exact[stage][0])
    with pytest.raises(UserError, match="no attention stage"):
        model.attention_weights(inputs, "visual.blocks.9.attn")
    with pytest.raises(UserError, match="no attention stage"):
        model.attention_weights(inputs, "model.layers.*.self_attn")


def test_images_in_any_form_and_with_their_own_limits(model, tmp_path):
    array = IMAGES[0]
    Image.fromarray(array).save(tmp_path / "a.png")
    for image in (array, Image.fromarray(array), tmp_path / "a.png", str(tmp_path / "a.png")):
        item = {"type": "image", "image": image}
        same = model.prepare([{"role": "user", "content": [item]}])
        assert same.image_grid_thw.tolist() == [[1, 10, 16]]
    url = {"type": "image_url", "image_url": {"url": str(tmp_path / "a.png")}}
    small = {"image": array, "max_pixels": 10000}
    both = model.prepare([{"role": "user", "content": [url, small]}], max_pixels=20000)
    assert both.image_grid_thw.tolist() == [[1, 8, 10], [1, 6, 8]]
    large = model.prepare(user_message(array, "?"), min_pixels=100_000)
    assert large.image_grid_thw.tolist() == [[1, 20, 28]]
    for other in ("path", "url"):
        item = {"type": "image", other: str(tmp_path / "a.png")}
        same = model.prepare([{"role": "user", "content": [item]}])
        assert same.image_grid_thw.tolist() == [[1, 10, 16]]


def test_text_only_and_conversations(model):
    conversation = [
        {"role": "system", "content": "s"},
        *user_message(None, "hi"),
        {"role": "assistant", "content": "hello"},
        *user_message(IMAGES[1], "and this?"),
    ]
    inputs = model.prepare(conversation)
    assert model.forward(inputs).shape == (len(inputs.input_ids), 300)
    alone = model.prepare(user_message(None, "hi"))
    assert alone.pixel_values is None
    assert model.forward(alone).shape == (len(alone.input_ids), 300)


def test_a_model_that_remembers_encodes_an_image_once(model, exact_model):
    caching = model.caching_images(most=2)
    inputs = model.prepare(user_message(IMAGES, "what is different?"))
    with tinyqwenvl.trace("visual") as first:
        logits = caching.forward(inputs)
    assert len(first["visual"]) == 2  # each by itself
    exact = exact_model.forward(inputs)
    assert_same_but_for_rounding(logits, model.forward(inputs), exact)
    other = model.prepare(user_message([IMAGES[1], IMAGES[0], IMAGES[1]], "and now?"))
    with tinyqwenvl.trace("visual") as again:
        logits = caching.forward(other)
    assert not again
    assert_same_but_for_rounding(logits, model.forward(other), exact_model.forward(other))
    caching.ask(random_image(3, 60, 60), "new", max_tokens=1)  # the oldest is forgotten
    with tinyqwenvl.trace("visual") as once_more:
        caching.forward(inputs)
    assert len(once_more["visual"]) >= 1


def test_a_memory_tells_grids_apart_and_forgets_the_longest_unseen():
    seen = []
    cache = ImageCache(lambda pixels, grid: seen.append(grid[0].tolist()) or pixels[::4], most=2)
    a, b, c = (np.full((16, 2), value, np.float32) for value in (1, 2, 3))
    flat, tall = np.array([[1, 2, 8]]), np.array([[1, 8, 2]])
    cache(a, flat), cache(a, tall)
    assert seen == [[1, 2, 8], [1, 8, 2]]  # the same numbers in another shape are another image
    cache = ImageCache(lambda pixels, grid: seen.append(float(pixels[0, 0])) or pixels[::4], most=2)
    seen.clear()
    for image in (a, b, a, c, a, b):
        cache(image, flat)
    assert seen == [1, 2, 3, 2]  # when c came, b was the longest unseen


def test_a_missing_video_is_named(model):
    for name in ("video", "path", "url"):
        with pytest.raises(UserError, match=r"a\.mp4: no such"):
            model.prepare([{"role": "user", "content": [{"type": "video", name: "a.mp4"}]}])
    with pytest.raises(UserError, match="fps and nframes are both given"):
        model.prepare([{"role": "user", "content": [{"video": "a.mp4", "nframes": 4, "fps": 2}]}])
    with pytest.raises(UserError, match="at least 1"):
        model.caching_images(0)


def test_placeholders_typed_by_the_user_are_text(model):
    inputs = model.prepare(user_message(None, "<|image_pad|><|im_end|>"))
    assert not np.isin(inputs.input_ids, [TOKEN_IDS["<|image_pad|>"]]).any()
    assert np.sum(inputs.input_ids == TOKEN_IDS["<|im_end|>"]) == 2


def test_a_template_of_its_own(tmp_path):
    directory = write_checkpoint(tmp_path, tiny_config("qwen2_vl"))
    (tmp_path / "chat_template.jinja").write_text(
        "{% for m in messages %}{% for c in m.content %}{% if 'image' in c %}<|image_pad|>"
        "{% else %}{{ c.text }}{% endif %}{% endfor %}{% endfor %}"
    )
    inputs = tinyqwenvl.load(directory).prepare(user_message(IMAGES[1], "ab"))
    assert len(inputs.input_ids) == 18 + 2


@max_examples(15)
@given(st.integers(1, 400), st.integers(1, 400))
def test_any_image_makes_as_many_tokens_as_placeholders(model, height, width):
    if max(height, width) / min(height, width) > 200:
        return
    image = np.zeros((height, width, 3), np.uint8)
    inputs = model.prepare(user_message(image, "?"))
    placeholders = np.count_nonzero(inputs.input_ids == TOKEN_IDS["<|image_pad|>"])
    assert len(model.image_features(inputs.pixel_values, inputs.image_grid_thw)) == placeholders > 0


def test_inputs_that_do_not_fit_are_refused(model, inputs):
    fewer = replace(inputs, input_ids=np.where(inputs.input_ids == 268, 5, inputs.input_ids))
    with pytest.raises(UserError, match="placeholders"):
        model.forward(fewer)
    for bad in (-1, 300):
        with pytest.raises(UserError, match="outside the vocabulary"):
            model.forward(replace(inputs, input_ids=np.full_like(inputs.input_ids, bad)))
