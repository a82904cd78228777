import numpy as np
import pytest

from tinyqwenvl import UserError
from tinyqwenvl.tracing import check_finite, record, trace


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
