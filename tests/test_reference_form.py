"""The reference forms stay plain: they run on an array that allows nothing but NumPy functions."""

import numpy as np
import pytest
from support import assert_same_but_for_rounding

from tinyqwenvl import decoder, nn, vision
from tinyqwenvl.weights import flatten, nest


class Strict(np.lib.mixins.NDArrayOperatorsMixin):
    """What an exporter's tracer is: no values to look at, no item assignment, no methods."""

    def __init__(self, array):
        self._array = np.asarray(array)
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __array__(self, *_args, **_kwargs):
        raise TypeError("a traced array was turned into a plain one")

    def __bool__(self):
        raise TypeError("a branch on data")

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        assert method == "__call__" and "out" not in kwargs
        return Strict(ufunc(*map(unwrap, inputs), **kwargs))

    def __array_function__(self, function, _types, args, kwargs):
        return Strict(function(*map(unwrap, args), **{k: unwrap(v) for k, v in kwargs.items()}))

    def __getitem__(self, key):
        assert not isinstance(key, Strict)
        return Strict(self._array[key])

    def __iter__(self):
        return (self[i] for i in range(self.shape[0]))


def strict_tree(weights):
    """The same weights, every leaf a Strict."""
    return nest({name: Strict(leaf) for name, leaf in flatten(weights).items()})


def unwrap(value):
    if isinstance(value, (list, tuple)):
        return type(value)(map(unwrap, value))
    return value._array if isinstance(value, Strict) else value


@pytest.fixture(scope="module")
def strict_weights(model):
    return strict_tree(model.weights)


def test_vision_encoder(model, strict_weights):
    grid = np.array([[1, 10, 14], [2, 4, 6]])
    patches = np.random.default_rng(0).normal(size=(188, 1176)).astype(np.float32)
    traced = vision.vision_encoder(Strict(patches), grid, strict_weights.visual, model.config)
    assert isinstance(traced, Strict)
    expected = vision.vision_encoder(patches, grid, model.weights.visual, model.config)
    np.testing.assert_array_equal(unwrap(traced), expected)


def test_decoder_with_and_without_a_cache(model, exact_model, strict_weights):
    ids = np.arange(20)
    positions = np.tile(ids, (3, 1))
    text = model.config.text

    def run(weights, embeds, cache=None, at=slice(None)):
        x = decoder.decode(embeds[at], positions[:, at], weights.model, text, cache)
        return decoder.logits(x, weights.lm_head)

    embeds = decoder.embed(ids, strict_weights.model.embed_tokens)
    image = Strict(np.ones((3, text.hidden_size), np.float32))
    embeds = decoder.scatter(embeds, np.where(ids < 3, 0, ids), 0, image)
    traced = run(strict_weights, embeds)
    assert isinstance(traced, Strict)
    np.testing.assert_array_equal(unwrap(traced), run(model.weights, unwrap(embeds)))

    cache = nn.ReferenceCache()
    run(strict_weights, embeds, cache, slice(0, 15))
    rest = run(strict_weights, embeds, cache, slice(15, 20))
    exact = run(exact_model.weights, unwrap(embeds).astype(np.float64))
    assert_same_but_for_rounding(unwrap(rest), unwrap(traced)[15:], exact[15:])


def test_the_proxy_really_is_strict(model, strict_weights):
    """The optimised forms assign items and look at data: they must fail on it."""
    x = Strict(np.ones((2, 5, 4), np.float32))
    with pytest.raises(TypeError):
        nn.optimised_attention(x, x, x, nn.causal_key_ranges(5))
    with pytest.raises(TypeError):
        np.asarray(x)
    with pytest.raises(TypeError):
        bool(x)
