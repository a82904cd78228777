import numpy as np
import pytest

from tinyqwenvl import UserError
from tinyqwenvl.tracing import check_finite, record, stage, trace, watching
from tinyqwenvl.weights import Weights


def test_the_first_stage_that_is_not_finite_is_named():
    with check_finite():
        record("a", np.arange(3))
        record("b", np.ones(3, np.float32))
        with pytest.raises(
            UserError, match=r"c is the first stage with NaN or infinity: 2 of its 3"
        ):
            record("c", np.array([np.nan, 1, -np.inf]))
    record("c", np.array([np.nan]))  # nobody watches any more


def test_watchers_may_be_nested():
    with trace("a") as outer, trace("b") as inner:
        record("a", 1)
        record("b", 2)
    assert (outer, inner) == ({"a": [1]}, {"b": [2]})


@stage
def double(x, weights, times=2, shift=None):
    return x * times


def test_a_watcher_sees_what_went_in():
    seen = {}
    x, shift = np.ones(3), np.zeros(1)
    with watching(lambda name, value, inputs: seen.update({name: inputs})):
        double(x, Weights({}, "a"), 3, shift=shift)
        record("b", 1, index=x)
    assert set(seen["a"]) == {"x", "shift"} and set(seen["b"]) == {"index"}
    assert seen["a"]["x"] is x and seen["a"]["shift"] is shift


def test_a_watcher_may_put_something_else_in_its_place():
    def steer(name, value, _):
        return value + 1 if name == "a" else None

    with trace() as before, watching(steer), trace() as after:
        y = double(np.ones(2), Weights({}, "a"))
        z = double(y, Weights({}, "b"))
    assert y.tolist() == [3, 3] and z.tolist() == [6, 6]
    assert before["a"][0].tolist() == [2, 2] and after["a"][0].tolist() == [3, 3]
