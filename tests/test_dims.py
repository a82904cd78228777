import numpy as np
import pytest
from checked_shapes import CHECKED_FUNCTIONS

from tinyqwenvl import nn
from tinyqwenvl.dims import GLOSSARY, Array, Float, Int, checked


@checked
def product(a: Float[Array, "S D"], b: Float[Array, "D E"]) -> Float[Array, "S E"]:
    return a @ b


@checked
def liar(
    a: Float[Array, "... D"], b: Int[Array, "3 S"] | None = None
) -> tuple[Float[Array, "D"], int]:
    return np.sum(a, axis=-1), 1


def test_right_shapes_pass():
    assert product(np.ones((2, 3)), np.ones((3, 4))).shape == (2, 4)


@pytest.mark.parametrize(
    ("a", "b", "complaint"),
    [
        (np.ones((2, 3)), np.ones((4, 4)), "is not"),
        (np.ones(3), np.ones((3, 4)), "is not"),
        (np.ones((2, 3), int), np.ones((3, 4)), "dtype"),
        ([[1.0]], np.ones((1, 4)), "expected an array"),
    ],
)
def test_wrong_arguments_are_named(a, b, complaint):
    with pytest.raises(TypeError, match=complaint):
        product(a, b)


def test_results_tuples_options_and_literals_are_checked():
    with pytest.raises(TypeError, match=r"liar -> \[0\]"):
        liar(np.ones((2, 3)))
    with pytest.raises(TypeError, match=r"liar\(b\)"):
        liar(np.ones((3, 3)), np.ones((2, 5), int))


def test_the_package_runs_checked():
    """The stages really are wrapped: a wrong width is caught by the signature, not by NumPy."""
    assert CHECKED_FUNCTIONS > 120
    with pytest.raises(TypeError, match=r"KVCache.append\(v\)"):
        nn.KVCache().append(0, np.ones((1, 2, 4)), np.ones((1, 3, 4)))
    with pytest.raises(TypeError, match=r"rotate\(sin\)"):
        nn.rotate(np.ones((1, 2, 4)), np.ones((2, 4)), np.ones((2, 1)))


def test_every_letter_in_a_signature_is_in_the_glossary():
    import inspect
    import typing

    from tinyqwenvl import decoder, image, model, position, vision
    from tinyqwenvl.dims import Dims

    def letters(hint):
        for piece in getattr(hint, "__metadata__", ()):
            if isinstance(piece, Dims):
                yield from piece.axes
        for inner in typing.get_args(hint):
            yield from letters(inner)

    found = set()
    for module in (nn, image, vision, position, decoder, model):
        for function in vars(module).values():
            if inspect.isfunction(function):
                for hint in typing.get_type_hints(function, include_extras=True).values():
                    found.update(letters(hint))
    found -= {"...", "2", "3"}
    assert {"N", "S", "A", "V"} <= found
    assert found <= set(GLOSSARY)
