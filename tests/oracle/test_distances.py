"""Distances of arrays, and other number formats."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import rounding

from tinyqwenvl import UserError
from tinyqwenvl.oracle.metrics import distance
from tinyqwenvl.oracle.precision import Rounded, in_precision, quantise, rounded, to_bf16


def bound_of_cosine_errors(a, b):
    """How far 1 - cosine may be off, [rows]: as the metric computes it, and as written down.

    The metric has |a|^2 = b.b + 2 e.b + e.e, off by g (|e| + |b|)^2: relatively by g r, with
    r = ((|e| + |b|) / |a|)^2 >= 1. |a| - |b| = (e.e + 2 e.b) / (|a| + |b|) is off by g |e| (3 + r)
    as |e| <= |a| + |b|. So e.e - (|a| - |b|)^2 is off by 2 g e.e (4 + r) <= 10 g r e.e, and the
    quotient by 2 |a| |b| by g r (itself at most e.e / 2 |a| |b|) more. Written down, it is a sum
    of products, two roots of sums, and a difference from 1.
    """
    width = b.shape[-1]
    size_a, size_b, size_e = (np.linalg.norm(x, axis=-1) for x in (a, b, a - b))
    ratio = ((size_e + size_b) / size_a) ** 2
    metric = 11 * rounding(width + 4) * ratio * size_e**2 / (2 * size_a * size_b)
    return 2 * metric + rounding(2 * width + 6)  # twice: g^2 is left out above


@given(st.integers(0, 2**31), st.sampled_from([1e-7, 1e-3, 1.0]), st.integers(1, 5))
@example(seed=44559, size=1.0, width=1)  # a row of one small number: 2.6e-14 in the place of 0
def test_distances_by_their_definitions(seed, size, width):
    """Each bound is the rounding of n terms in both ways of computing, times what they add up to.

    Variances are differences of mean squares and squared means: ``worse`` is how much larger these
    are.
    """
    rng = np.random.default_rng(seed)
    b = rng.normal(1, 2, (7, width))
    a = b + size * rng.normal(size=b.shape)
    e = a - b
    far = distance(a, b)
    off = rounding(b.size + 4)
    assert far.nmse == pytest.approx(np.sum(e**2) / np.sum(b**2), rel=4 * off)
    worse = np.mean(b**2) / np.var(b)
    assert far.max_error == pytest.approx(np.max(np.abs(e)) / np.std(b), rel=4 * off * worse)
    worse += (np.sqrt(np.mean(e**2)) + np.sqrt(np.mean(b**2))) ** 2 / np.var(a)
    expected = np.corrcoef(a.ravel(), b.ravel())[0, 1]
    assert far.pearson == pytest.approx(expected, abs=4 * off * worse)
    bound = bound_of_cosine_errors(a, b)
    cosines = np.sum(a * b, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    rows = [distance(a[i : i + 1], b[i : i + 1]).cosine_error for i in range(7)]
    assert np.all(np.abs(rows - (1 - cosines)) <= bound)
    assert far.cosine_error == pytest.approx(np.max(rows), abs=np.max(bound))


def test_distances_see_what_one_number_hides():
    b = np.ones((1000, 8), np.float32)
    b[:, 0] = 500  # a massive channel, the same in both: correlation likes it
    a = b.copy()
    a[7, 1:] = -1
    far = distance(a, b)
    assert far.pearson > 0.99999 and far.nmse < 1e-5 and far.max_error < 0.02
    assert far.cosine_error > 1e-5
    assert distance(b, b) == (0, 0, 0, 1, 0, 0)
    a[3, 3] = np.nan
    assert distance(a, b).not_finite == 1 and not distance(a, b).within(1, -1, 1e9)


def test_ulp_counts_representable_numbers():
    b = np.linspace(-3, 3, 101, dtype=np.float32)[None]
    assert distance(np.nextafter(b, np.float32(9)), b).ulp == 1


# ------------------------------------------------------------------ other number formats


def test_bfloat16_is_rounded_as_others_round_it():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    expected = x.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(to_bf16(x), expected)
    assert np.isinf(to_bf16(np.array([np.inf], np.float32)))[0]


def test_every_operation_rounds():
    x = rounded(np.linspace(1, 2, 64, dtype=np.float32).reshape(8, 8), to_bf16)
    results = [
        x + x / 3, x @ x, np.mean(x, axis=-1), np.where(x > 1.5, x / 7, 0.1),
        np.concatenate([x, x / 3]), np.exp(x), np.max(x * 1.01, axis=0), x.T * 0.3,
        np.take(x, [0, 1], axis=0) / 3, np.sqrt(np.mean(x * x, axis=-1, keepdims=True)),
    ]  # fmt: skip
    for i, result in enumerate(results):
        assert isinstance(result, Rounded), i
        plain = np.asarray(result)
        np.testing.assert_array_equal(plain, to_bf16(plain), err_msg=str(i))
    assert not np.array_equal(np.asarray(x @ x), np.asarray(x) @ np.asarray(x))


def test_int8_is_half_a_step_at_most():
    matrix = np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32)
    step = np.abs(matrix).max(axis=1, keepdims=True) / 127
    assert np.all(np.abs(quantise(matrix) - matrix) <= step / 2 * 1.0001)
    assert quantise(np.zeros((2, 3))).tolist() == [[0] * 3] * 2


def test_a_model_in_another_precision_leaves_the_first_alone(model, job):
    def logits(m):
        return m.forward(m.prepare(job.messages))

    before = logits(model)
    far = distance(np.asarray(logits(in_precision(model, "bfloat16"))), before)
    assert 1e-5 < far.nmse < 1e-1
    np.testing.assert_array_equal(logits(model), before)
    with pytest.raises(UserError, match="unknown precision fp8"):
        in_precision(model, "fp8")
