"""What tests of several stages share: numbers of examples, bounds of rounding, interrupts.

A bound on a difference is derived, never guessed. Where the arithmetic is short, it is
``rounding(n)`` times the scale of what was added up. Where it is long (a whole model), it is the
noise measured in the same test, against the same in float64, times ``FACTOR``. Drawn figures are
compared with ``np.allclose`` at its default, 1e-5 of a value: they are computed in float64 (1e-15)
and shown in pixels (1e-3), so that neither a rounding nor a visible fault comes near it.
"""

import signal

import hypothesis
import numpy as np

FACTOR = 10
"""Two float32 runs of one model differ by the sum of their errors, and either may be several times
the other's, as the largest of many; a fault is off by its own size, thousands of times as much."""


def rounding(roundings, dtype=np.float64):
    """n u / (1 - n u), Higham's gamma: the most that n roundings in a row are off, relatively.

    A sum or dot product of n terms, in any order, is off by at most ``rounding(n)`` times the sum
    of the terms' sizes.
    """
    off = roundings * np.finfo(dtype).eps / 2
    return off / (1 - off)


def assert_same_but_for_rounding(found, expected, exact):
    """Two float32 results of one computation in different orders; ``exact`` is it in float64.

    The noise is the largest error of ``expected``, which must not be a handful of values.
    """
    found, expected, exact = map(np.asarray, (found, expected, exact))
    assert found.shape == expected.shape == exact.shape and exact.dtype == np.float64
    assert expected.size > 100 and found.dtype == expected.dtype == np.float32
    noise = np.max(np.abs(expected - exact))
    assert 0 < noise < 1e-3 * np.max(np.abs(exact))
    apart = np.max(np.abs(found - expected))
    assert apart <= FACTOR * noise, f"apart by {apart:.1e}, noise is {noise:.1e}"


def max_examples(number):
    """``@settings`` of so many examples; ten times as many under the profile ``thorough``."""
    times = hypothesis.settings.default.max_examples / 100
    return hypothesis.settings(max_examples=round(number * times))


def can_be_interrupted():
    """For ``preexec_fn``: Ctrl-C ends a child of a pytest-xdist worker, which itself ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
