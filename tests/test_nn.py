import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import max_examples, rounding

from tinyqwenvl import nn
from tinyqwenvl.checkpoint import nest


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def assert_near(found, expected, off):
    """Everywhere by at most ``off``, which is an array of their shape or a number."""
    assert np.shape(found) == np.shape(expected)
    assert np.all(np.abs(np.subtract(found, expected)) <= off)


def test_linear_with_and_without_bias(rng):
    x, w, b = rng.normal(size=(5, 3)), rng.normal(size=(4, 3)), rng.normal(size=4)
    slow = np.array(
        [[sum(x[i, k] * w[j, k] for k in range(3)) for j in range(4)] for i in range(5)]
    )
    off = 2 * rounding(4) * (np.abs(x) @ np.abs(w.T) + np.abs(b))  # both add four terms
    assert_near(nn.linear(x, nest({"weight": w})), slow, off)
    assert_near(nn.linear(x, nest({"weight": w, "bias": b})), slow + b, off)


def test_norms_by_hand(rng):
    """Sums of six squares, a root and three products or quotients, twice each."""
    x, w, b = rng.normal(size=(2, 6)), rng.normal(size=6), rng.normal(size=6)
    for row, got in zip(x, nn.rms_norm(x, nest({"weight": w}), 0.1), strict=True):
        expected = w * row / math.sqrt(sum(v * v for v in row) / 6 + 0.1)
        assert_near(got, expected, 2 * rounding(12) * np.abs(expected))
    for row, got in zip(x, nn.layer_norm(x, nest({"weight": w, "bias": b}), 0.1), strict=True):
        mean = sum(row) / 6
        variance = sum((v - mean) ** 2 for v in row) / 6
        root = math.sqrt(variance + 0.1)
        size = np.abs(w) * (np.abs(row).max() + np.abs(row - mean)) / root + np.abs(b)
        # the mean is off, too, and so is the variance by as much of the largest
        off = 2 * rounding(14) * size * (1 + np.abs(row).max() ** 2 / root**2)
        assert_near(got, w * (row - mean) / root + b, off)


def test_activations_by_hand():
    """Off by some roundings of the value; 1 + erf, which may cancel, by some of x itself.

    An argument of 10 that is rounded puts e to its power off by ten times as much.
    """
    x = np.linspace(-6, 6, 25)[None]
    gelu = [v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in x[0]]
    assert_near(nn.gelu(x)[0], gelu, 2 * rounding(8) * np.abs(x[0]))
    for activation, slope in ((nn.silu, 1), (nn.quick_gelu, 1.702)):
        expected = np.array([v / (1 + math.exp(-slope * v)) for v in x[0]])
        assert_near(activation(x)[0], expected, 2 * rounding(8 + 11) * np.abs(expected))


@pytest.mark.filterwarnings("error")
def test_extremes_are_finite():
    x = np.array([[-1e4, -100, 0, 100, 1e4]], np.float32)
    for activation in (nn.silu, nn.quick_gelu, nn.gelu, nn.softmax):
        assert np.isfinite(activation(x)).all()
        assert activation(x).dtype == np.float32


@given(st.integers(0, 200), st.integers(1, 5))
def test_gelu_in_chunks_is_gelu(rows, width):
    x = np.random.default_rng(rows).normal(size=(rows, width)).astype(np.float32)
    np.testing.assert_array_equal(nn.gelu_in_chunks(x), nn.gelu(x))


def test_rotate_turns_pairs(rng):
    x, angles = rng.normal(size=(2, 3, 8)), rng.normal(size=(3, 4))
    cos, sin = (np.tile(f(angles), 2) for f in (np.cos, np.sin))
    got = nn.rotate(x, cos, sin)
    for i in range(4):
        as_complex = (x[..., i] + 1j * x[..., i + 4]) * np.exp(1j * angles[:, i])
        off = 2 * rounding(4) * (np.abs(x[..., i]) + np.abs(x[..., i + 4]))
        assert_near(got[..., i], as_complex.real, off)
        assert_near(got[..., i + 4], as_complex.imag, off)


def slow_attention(q, k, v, key_ranges):
    out = np.zeros_like(q)
    for head in range(len(q)):
        shared = head // (len(q) // len(k))
        for i, (first, last) in enumerate(key_ranges):
            scores = np.array([q[head, i] @ k[shared, j] for j in range(first, last)])
            weights = np.exp(scores / math.sqrt(q.shape[-1]))
            out[head, i] = weights / weights.sum() @ v[shared, first:last]
    return out


@st.composite
def attention_cases(draw):
    shared, groups, size = (
        draw(st.integers(1, 2)),
        draw(st.integers(1, 3)),
        draw(st.sampled_from([2, 4])),
    )
    if draw(st.booleans()):
        new, past = draw(st.integers(1, 300)), draw(st.integers(0, 20))
        key_ranges, keys = nn.causal_key_ranges(new, past), new + past
    else:
        lengths = draw(st.lists(st.sampled_from([1, 4, 16, 64, 150]), min_size=1, max_size=6))
        key_ranges, keys = nn.segment_key_ranges(np.cumsum([0, *lengths])), sum(lengths)
    seed = draw(st.integers(0, 99))
    random = np.random.default_rng(seed)
    q = random.normal(size=(shared * groups, len(key_ranges), size))
    k, v = random.normal(size=(2, shared, keys, size))
    return q, k, v, key_ranges


@max_examples(40)
@given(attention_cases())
def test_reference_and_optimised_attention_equal_the_loops(case):
    """A mean of values: off as its weights are, and those as the scores in the exponent."""
    q, k, v, _ = case
    size = np.linalg.norm(q, axis=-1).max() * np.linalg.norm(k, axis=-1).max()
    score = rounding(q.shape[-1] + 2) * size / math.sqrt(q.shape[-1])
    # e to the score, its sum over the keys, the quotient; then the sum of the values: in both forms
    off = 2 * (2 * score + 2 * rounding(v.shape[1] + 4)) * np.abs(v).max()
    expected = slow_attention(*case)
    assert_near(nn.attention(*case), expected, off)
    assert_near(nn.optimised_attention(*case), expected, off)


def test_optimised_attention_in_windows_is_taken(monkeypatch, rng):
    """Both optimised forms are really reached."""
    calls = []
    for name in ("_attention_in_windows", "_attention_in_chunks"):
        original = getattr(nn, name)
        monkeypatch.setattr(nn, name, lambda *a, n=name, f=original: calls.append(n) or f(*a))
    q = rng.normal(size=(2, 96, 4))
    nn.optimised_attention(q, q, q, nn.segment_key_ranges(np.array([0, 64, 96])))
    nn.optimised_attention(q, q, q, nn.segment_key_ranges(np.array([0, 96])))
    nn.optimised_attention(q, q[:1], q[:1], nn.causal_key_ranges(96))
    assert calls == ["_attention_in_windows", "_attention_in_chunks", "_attention_in_chunks"]


@pytest.mark.parametrize("kind", [nn.ReferenceCache, nn.KVCache])
def test_a_cache_whose_last_layer_is_missing_holds_nothing_whole(kind):
    cache, keys = kind(), np.ones((1, 3, 2))
    cache.append(0, keys, keys)
    assert cache.length == 3 and cache.whole(2) == 0
    cache.append(1, keys[:, :2], keys[:, :2])
    assert cache.whole(2) == 2


@given(st.lists(st.integers(1, 90), min_size=1, max_size=6))
def test_the_caches_are_equal(lengths):
    reference, optimised = nn.ReferenceCache(), nn.KVCache()
    for layer in (0, 1):
        random = np.random.default_rng(layer)
        for length in lengths:
            k, v = random.normal(size=(2, 2, length, 3))
            for ours, theirs in zip(
                reference.append(layer, k, v), optimised.append(layer, k, v), strict=True
            ):
                np.testing.assert_array_equal(ours, theirs)
    assert reference.length == optimised.length == sum(lengths)


def test_optimised_attention_never_holds_all_the_weights(rng):
    """4,096 rows, 2 heads: the reference form needs 134 MB for them."""
    q = rng.normal(size=(2, 4096, 8)).astype(np.float32)
    for key_ranges in (nn.causal_key_ranges(4096), nn.segment_key_ranges(np.array([0, 4096]))):
        tracemalloc.start()
        nn.optimised_attention(q, q, q, key_ranges)
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
        tracemalloc.stop()


def test_gelu_in_chunks_never_holds_all_the_objects(rng):
    x = rng.normal(size=(4096, 64)).astype(np.float32)
    tracemalloc.start()
    nn.gelu_in_chunks(x)
    assert tracemalloc.get_traced_memory()[1] < 4_000_000
    tracemalloc.stop()


def test_a_new_token_copies_only_itself(rng):
    """The room is taken ahead: what append returns are views of one buffer."""
    cache = nn.KVCache()
    k, v = rng.normal(size=(2, 1, 40, 3))
    first, _ = cache.append(0, k, v)
    second, _ = cache.append(0, k[:, :1], v[:, :1])
    assert np.shares_memory(first, second)


def test_rotary_frequencies_are_pytorchs_to_the_bit():
    """1 / 10000 ** (torch.arange(0, 40, 2) / 40), torch 2.13."""
    bits = [
        1065353216,
        1059161707,
        1053545652,
        1048615884,
        1042434822,
        1036831949,
        1031878741,
        1025708177,
        1020118547,
        1015141792,
        1008981770,
        1003405449,
        998405028,
        992255608,
        986692658,
        981668463,
        975529684,
        969980167,
        964932090,
        958804008,
    ]
    frequencies = nn.rotary_frequencies(40, 10000.0)
    assert frequencies.view(np.uint32).tolist() == bits
