"""What tests of several stages share: numbers of examples, bounds of rounding, interrupts."""

import signal

import hypothesis


def max_examples(number):
    """``@settings`` of so many examples; ten times as many under the profile ``thorough``."""
    times = hypothesis.settings.default.max_examples / 100
    return hypothesis.settings(max_examples=round(number * times))


def can_be_interrupted():
    """For ``preexec_fn``: Ctrl-C ends a child of a pytest-xdist worker, which itself ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
