"""Whatever is passed to a model's methods, they work or raise one UserError of one line.

The shapes that other tests check at every call are switched off for the model's own methods here,
so that what a caller sees is what answers; the stages behind them stay checked.
"""

import inspect
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import max_examples

import tinyqwenvl
from scripts.random_checkpoint import random_image, tiny_config, write_checkpoint
from tinyqwenvl import UserError, generate, nn
from tinyqwenvl.generate import Past
from tinyqwenvl.image_cache import ImageCache
from tinyqwenvl.model import Inputs, Model, user_message
from tinyqwenvl.video import read_video

IMAGES = [random_image(1, 60, 90), random_image(2, 90, 60)]


@pytest.fixture(scope="module", autouse=True)
def as_callers_see_it():
    with pytest.MonkeyPatch.context() as patch:
        for door in (Model, Inputs, ImageCache):
            for name, value in list(vars(door).items()):
                if hasattr(value, "__wrapped__"):
                    patch.setattr(door, name, inspect.unwrap(value))
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = write_checkpoint(tmp_path_factory.mktemp("m"), tiny_config("qwen2_5_vl"), seed=3)
    return tinyqwenvl.load(directory)


@pytest.fixture(scope="module")
def good(model):
    return model.prepare(user_message(IMAGES, "hi"))


@pytest.fixture(scope="module")
def video(model):
    frames = [random_image(i, 56, 84) for i in range(4)]
    content = [{"type": "video", "video": frames, "fps": 2.0}, {"type": "text", "text": "?"}]
    return model.prepare([{"role": "user", "content": content}], min_pixels=1, max_pixels=5000)


def in_one_line(call, says="."):
    with pytest.raises(UserError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


NAN = np.float32("nan")
BAD_INPUTS = {  # field -> (what becomes of its value, what the line says)
    "input_ids": [
        (lambda v: None, r"input_ids must be integers of shape \[S\], not NoneType"),
        (lambda v: v[:0], "no tokens"),
        (lambda v: v + 1000, "outside the vocabulary"),
        (lambda v: -v, "outside the vocabulary"),
        (lambda v: v[None], r"of shape \[S\], not \[1, "),
        (lambda v: v[0], r"not \[\]"),
        (lambda v: v.astype(float), "not float64"),
        (lambda v: v > 5, "not bool"),
        (lambda v: "abc", "not str"),
        (lambda v: ["a", "b"], "not list"),
        (lambda v: [[1], [1, 2]], "not ragged lists"),
        (lambda v: v[v != 268], "placeholders"),
        (lambda v: v[:-9], "position_ids are of"),
    ],
    "position_ids": [
        (lambda v: None, r"\[3, S\], not NoneType"),
        (lambda v: v[:, :-1], "position_ids are of"),
        (lambda v: v[:, :1], "position_ids are of 1 tokens"),
        (lambda v: v[0], r"\[3, S\], not \["),
        (lambda v: np.concatenate([v, v[:1]]), r"\[3, S\], not \[4"),
        (lambda v: v[:, None], r"\[3, S\], not \[3, 1"),
        (lambda v: v + 0.5, "not float64"),
    ],
    "pixel_values": [
        (lambda v: v[:-4], r"pixel_values has \d+ patches; its grids need"),
        (lambda v: np.concatenate([v, v[:4]]), "patches; its grids need"),
        (lambda v: v[:0], "has 0 patches"),
        (lambda v: v[:, :-1], r"\[N, 1176\], not \["),
        (lambda v: v.ravel(), r"\[N, 1176\], not \["),
        (lambda v: v[None], r"\[N, 1176\], not \[1, "),
        (lambda v: v.astype(int), "not int64"),
        (lambda v: np.where(v == v[0, 0], NAN, v), "values that are not finite"),
        (lambda v: np.full_like(v, np.inf), "not finite"),
        (lambda v: None, "has no pixel_values"),
        (lambda v: "x", "not str"),
    ],
    "image_grid_thw": [
        (lambda v: None, "has no image_grid_thw"),
        (lambda v: v[0], r"\[I, 3\], not \[3\]"),
        (lambda v: v[:, :2], r"\[I, 3\], not \[2, 2\]"),
        (lambda v: v.astype(float), "not float64"),
        (lambda v: -v, "needs at least one frame pair"),
        (lambda v: 0 * v, "needs at least one frame pair"),
        (lambda v: v + np.array([0, 1, 0]), "multiples of 2"),
        (lambda v: v + np.array([0, 0, 1]), "multiples of 2"),
        (lambda v: v[:1], "its grids need"),
        (lambda v: v * 10**9, "its grids need"),
        (lambda v: v[:0], "its grids need 0"),
        (lambda v: [[1, 4, 6], [1, 4]], "not ragged lists"),
    ],
}


@pytest.mark.parametrize("field", BAD_INPUTS)
def test_inputs_that_do_not_fit_are_refused_in_one_line(model, good, field):
    for change, says in BAD_INPUTS[field]:
        bad = replace(good, **{field: change(getattr(good, field))})
        in_one_line(lambda bad=bad: model.forward(bad), says)
        in_one_line(lambda bad=bad: list(model.generate(bad, 2)), says)
        in_one_line(lambda bad=bad: model.caching_images().forward(bad), says)


def test_lists_are_read_as_arrays(model, good):
    names = ("input_ids", "position_ids", "pixel_values", "image_grid_thw")
    listed = replace(good, **{name: getattr(good, name).tolist() for name in names})
    single = replace(listed, pixel_values=good.pixel_values)
    np.testing.assert_array_equal(model.forward(single), model.forward(good))
    assert model.forward(listed).shape == model.forward(good).shape
    positions, delta = model.positions(listed.input_ids, {"image_grid_thw": listed.image_grid_thw})
    np.testing.assert_array_equal(positions, good.position_ids)
    assert delta == good.rope_delta


def test_other_fields_and_arguments(model, good):
    for change, says in (
        ({"rope_delta": None}, "rope_delta is None"),
        ({"rope_delta": 0.5}, "rope_delta is 0.5"),
        ({"rope_delta": np.arange(4)}, "rope_delta is"),
    ):
        in_one_line(lambda change=change: model.generate(replace(good, **change), 3), says)
    for most in (-1, "3", 2.5, None):
        in_one_line(lambda most=most: model.generate(good, most), "max_tokens is")
    in_one_line(lambda: model.ask(None, "hi", -2), "max_tokens is -2")
    in_one_line(lambda: model.ask(None, 5), "a prompt is a text, not int")
    in_one_line(lambda: model.ask(None, " "), "the prompt is empty")
    in_one_line(lambda: tinyqwenvl.load(5), "a directory or a hub id, not int")
    in_one_line(lambda: model.generate(good, 2, sampling=None), "sampling must be a Sampling")
    for bad in (None, {}, "text", 5, Model):
        in_one_line(lambda bad=bad: model.forward(bad), "must come from Model.prepare")
    assert list(model.generate(good, 0)) == []


def test_the_encoder_alone(model, good):
    pixels, grids = good.pixel_values, good.image_grid_thw
    in_one_line(lambda: model.image_features(pixels[:-4], grids), "its grids need")
    in_one_line(lambda: model.image_features(pixels, None), r"\[I, 3\]")
    in_one_line(lambda: model.image_features(pixels[:0], grids[:0]), "no image to encode")
    in_one_line(lambda: model.image_features(None, grids), r"\[N, 1176\]")


def test_positions_alone(model, good, video):
    grids, clips = good.image_grid_thw, video.video_grid_thw
    for ids, media, says in (
        (good.input_ids, {"image_grid_thw": grids[:, :2]}, r"\[I, 3\]"),
        (good.input_ids, {"image_grid_thw": -grids}, "frame pair"),
        (good.input_ids, {"image_grid_thw": grids[:1]}, "more image placeholders"),
        (good.input_ids, {}, "more image placeholders"),
        (good.input_ids, None, "media must be a dict"),
        (good.input_ids[None], {"image_grid_thw": grids}, r"\[S\]"),
        (video.input_ids, {"video_grid_thw": clips, "second_per_grid_ts": ()}, "1 videos need"),
        (video.input_ids, {"video_grid_thw": clips, "second_per_grid_ts": (1, 2)}, "1 videos need"),
        (video.input_ids, {"video_grid_thw": clips, "second_per_grid_ts": 1.0}, "1 videos need"),
        (video.input_ids, {"video_grid_thw": clips, "second_per_grid_ts": [NAN]}, "between 0"),
        (video.input_ids, {"video_grid_thw": clips, "second_per_grid_ts": [-1]}, "between 0"),
        (video.input_ids, {"video_grid_thw": clips, "second_per_grid_ts": [1e30]}, "between 0"),
        (video.input_ids, {"video_grid_thw": clips, "second_per_grid_ts": ["a"]}, "be numbers"),
    ):
        in_one_line(lambda ids=ids, media=media: model.positions(ids, media), says)
    positions, _ = model.positions(
        video.input_ids, {"video_grid_thw": clips.tolist(), "second_per_grid_ts": [1.0]}
    )
    np.testing.assert_array_equal(positions, video.position_ids)


def test_caches_and_embeddings(model, good):
    cache, other = nn.KVCache(), tinyqwenvl.load()
    embeds = model.embed(good)
    model.next_logits(embeds, good.position_ids, cache)
    one, place = np.zeros((1, other.config.text.hidden_size), np.float32), np.zeros((3, 1), int)
    in_one_line(lambda: other.next_logits(one, place, cache), "of another model")
    in_one_line(lambda: model.next_logits(one, place, cache), r"embeddings must be .* 64\]")
    in_one_line(lambda: model.decode(embeds[:0], place[:, :0]), "no embeddings")
    in_one_line(lambda: model.decode(embeds, place), "position_ids are of 1 tokens")
    in_one_line(lambda: model.decode(embeds, good.position_ids, 7), "a cache must be a KVCache")
    torn = nn.ReferenceCache()
    torn.layers = {0: cache.layers[0]}
    in_one_line(lambda: model.decode(embeds[:1], place, torn), "interrupted")
    torn.keep(0)
    model.decode(embeds[:1], place, torn)  # nothing is in it: a prefill may begin again
    in_one_line(lambda: model.generate(good, 2, past=Past(cache, [1, 2])), "the past has 2 ids")
    for past in ((None, []), (cache,), "past", Past(cache, None), 7):
        in_one_line(lambda past=past: model.generate(good, 2, past=past), "past must be a Past")
    assert list(model.generate(good, 1, past=Past(nn.KVCache(), []))) == list(
        model.generate(good, 1)
    )


def test_tokens_heads_and_rows(model, good):
    for ids in ([-1], [99999], [1.5], [[1]], [], None, "a"):
        in_one_line(lambda ids=ids: model.embed_tokens(ids))
    stage = "model.layers.0.self_attn"
    for argument in ({"heads": 99}, {"rows": [9999]}, {"heads": "a"}, {"rows": 1.5}):
        in_one_line(lambda argument=argument: model.attention_weights(good, stage, **argument))


# ------------------------------------------------------------------ fuzzing

shapes = st.lists(st.integers(0, 7), max_size=3)
dtypes = st.sampled_from([np.int64, np.int32, np.uint8, np.float32, np.float64, bool, object, str])


@st.composite
def odd_arrays(draw):
    """An array of any small shape and any type, some of them as lists."""
    shape, dtype = draw(shapes), draw(dtypes)
    values = draw(st.sampled_from([0, 1, -1, 2, 4, 5, 268, 2**62]))
    with np.errstate(all="ignore"):
        array = np.full(shape, values).astype(dtype)
    return draw(st.sampled_from([array, array.tolist(), None, 3, "x", [[1], [2, 3]]]))


@st.composite
def sliced(draw, array):
    """A good array with an axis cut, doubled, moved or added, or in another type."""
    if not isinstance(array, np.ndarray) or array.ndim == 0:
        return draw(odd_arrays())
    axis = draw(st.integers(0, array.ndim - 1))
    size = array.shape[axis]
    return draw(
        st.sampled_from(
            [
                array,
                np.take(array, np.arange(draw(st.integers(0, size))), axis),
                np.concatenate([array, array], axis),
                array[None],
                np.moveaxis(array, axis, 0),
                array.astype(draw(st.sampled_from([np.int32, np.float64, np.float16, bool]))),
                array.reshape(-1),
            ]
        )
    )


@max_examples(150)
@given(st.data())
def test_any_inputs_work_or_are_refused_in_one_line(model, good, video, data):
    inputs = data.draw(st.sampled_from([good, video]))
    names = [field.name for field in fields(Inputs)]
    for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=2)):
        value = getattr(inputs, name)
        changed = data.draw(st.one_of(odd_arrays(), sliced(value), st.just(value)))
        inputs = replace(inputs, **{name: changed})
    media = {n: getattr(inputs, n) for n in ("image_grid_thw", "video_grid_thw")}
    media["second_per_grid_ts"] = inputs.second_per_grid_ts
    cache = nn.KVCache()
    for call in (
        lambda: model.forward(inputs),
        lambda: model.embed(inputs),
        lambda: list(model.generate(inputs, 1)),
        lambda: model.image_features(inputs.pixel_values, inputs.image_grid_thw),
        lambda: model.positions(inputs.input_ids, media),
        lambda: model.embed_tokens(inputs.input_ids),
        lambda: model.next_logits(model.embed(good), inputs.position_ids, cache),
        lambda: model.attention_weights(inputs, "model.layers.0.self_attn", heads=0, rows=-1),
    ):
        try:
            call()
        except UserError as error:
            assert "\n" not in str(error)


def test_what_was_read_or_generated_passes(model, video):
    """The checks refuse nothing that the package itself makes."""
    assert isinstance(model.generate(video, 1), generate.Generation)
    assert model.forward(video).shape == (len(video.input_ids), 300)
    clip = read_video([random_image(i, 56, 84) for i in range(4)], model.config, fps=2.0)
    assert model.image_features(clip.patches, np.array([clip.grid])).ndim == 2
