"""Names of version 0.1 still work, with a warning that says today's."""

import importlib
import warnings

import numpy as np
import pytest

import tinyqwenvl
from tinyqwenvl import video
from tinyqwenvl.deprecated import OLD_NAMES
from tinyqwenvl.model import EXAMPLE_IMAGE, EXAMPLE_VIDEO
from tinyqwenvl.tracing import current_name

NAMES = [(module, old, new) for module, names in OLD_NAMES.items() for old, new in names.items()]


@pytest.fixture(scope="module")
def model():
    return tinyqwenvl.load()


@pytest.fixture(scope="module")
def inputs(model):
    return model.prepare(tinyqwenvl.model.user_message(EXAMPLE_IMAGE, "describe"))


@pytest.mark.parametrize(("module", "old", "new"), NAMES)
def test_an_old_name_is_the_new_one(module, old, new):
    namespace = importlib.import_module(module)
    assert old not in vars(namespace)
    with pytest.warns(DeprecationWarning, match=f"{module}.{old} is now called {new}"):
        assert getattr(namespace, old) is getattr(namespace, new)


@pytest.mark.parametrize("module", OLD_NAMES)
def test_other_names_are_still_refused(module):
    with pytest.raises(AttributeError, match="nonsense"):
        importlib.import_module(module).nonsense  # noqa: B018


def test_importing_an_old_name_warns():
    with pytest.warns(DeprecationWarning, match="open_image"):
        from tinyqwenvl.media import open_picture  # noqa: F401


def test_an_old_module_is_found():
    with pytest.warns(DeprecationWarning, match="ImageCache"):
        from tinyqwenvl.memory import Memory
    assert Memory is tinyqwenvl.image_cache.ImageCache


def test_today_s_names_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        tinyqwenvl.load(reference=True).caching_images()


def test_old_arguments_and_methods(model, inputs):
    with pytest.warns(DeprecationWarning, match="reference"):
        assert tinyqwenvl.load(plain=True).reference
    assert not model.reference
    given = inputs.pixel_values, inputs.image_grid_thw
    with pytest.warns(DeprecationWarning, match="image_features"):
        np.testing.assert_array_equal(model.see(*given), model.image_features(*given))
    with pytest.warns(DeprecationWarning, match="caching_images"):
        assert model.remembering(3).image_cache.most == 3


@pytest.mark.parametrize("key", ["recipe", "sampling_policy"])
def test_both_keys_of_an_item_choose_the_sampling_policy(model, monkeypatch, key):
    asked = []
    hf = video.SAMPLING_POLICIES["hf"]
    spy = hf._replace(sample=lambda *given: asked.append(given) or hf.sample(*given))
    monkeypatch.setitem(video.SAMPLING_POLICIES, "hf", spy)
    item = {"type": "video", "video": str(EXAMPLE_VIDEO), key: "hf"}
    model.prepare([{"role": "user", "content": [item]}])
    assert len(asked) == 1


def test_today_s_key_wins_where_both_are_given(model):
    item = {"type": "video", "video": str(EXAMPLE_VIDEO), "sampling_policy": "hf", "recipe": "no"}
    model.prepare([{"role": "user", "content": [item]}])


def test_a_prompt_that_is_no_text_is_refused_in_one_line(model):
    with pytest.raises(tinyqwenvl.UserError, match="a prompt is a text, not NoneType"):
        model.ask(EXAMPLE_IMAGE, None)


STAGES = {
    "picture": "image.rgb",
    "visual.blocks.0.attn.spans": "visual.blocks.0.attn.key_ranges",
    "visual.blocks.*.attn.spans": "visual.blocks.*.attn.key_ranges",
    "*spans": "*key_ranges",
    "image.resize": "image.resize",
    "lifespans": "lifespans",
}


@pytest.mark.parametrize(("old", "new"), STAGES.items())
def test_names_of_stages(old, new):
    assert current_name(old) == new


def test_an_old_glob_and_an_old_key_find_the_stage(model, inputs):
    with tinyqwenvl.trace("visual.blocks.*.attn.spans", "picture") as stages:
        model.image_features(inputs.pixel_values, inputs.image_grid_thw)
    assert len(stages) == model.config.vision.depth
    with pytest.warns(DeprecationWarning, match="key_ranges"):
        old = stages["visual.blocks.0.attn.spans"]
    assert old is stages["visual.blocks.0.attn.key_ranges"]
    with pytest.raises(KeyError):
        stages["visual.blocks.99.attn.spans"]
