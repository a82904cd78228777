"""The dimension letters, and array types that carry a shape: ``Float[Array, "N D"]``.

Shapes stand in the signatures of every stage. Nothing looks at them in ordinary use; the tests
wrap every function of the package in :func:`checked`, which binds each letter to a size the first
time it appears in a call and complains when the same letter later has another size. Anything with
a ``.shape`` passes for an array, so proxies, tracers and other libraries' arrays are welcome.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np

GLOSSARY = {
    "I": "images in the prompt",
    "J": "videos in the prompt",
    "F": "frames of one image or video; a still image is one frame",
    "C": "colour channels, 3",
    "H": "height of the resized image, pixels",
    "W": "width of the resized image, pixels",
    "N": "patches of all images: the sum of t * h * w over their grids",
    "Q": "patches of all videos",
    "P": "numbers in one patch: 3 channels * 2 frames * 14 * 14 pixels = 1176",
    "M": "image tokens, N / 4: a merged token is a 2x2 block of patches",
    "G": "boundaries of attention segments (windows, or whole frames): one more than segments",
    "S": "tokens computed in this call (or rows of any sequence)",
    "K": "keys that can be looked at: S, plus what the cache holds",
    "D": "width of the stream a function reads",
    "E": "width of what it writes, where that differs from D",
    "A": "attention (query) heads",
    "B": "key/value heads; B divides A",
    "d": "size of one head",
    "V": "rows of the vocabulary",
}


class Dims(NamedTuple):
    """What ``Float[Array, "N D"]`` says: kinds of dtype; a letter, number or ``...`` an axis."""

    kinds: str
    axes: tuple[str, ...]


class _ArrayType:
    """``Float[Array, "N D"]`` -> an annotation that type checkers read as ``Array``."""

    def __init__(self, kinds: str):
        self.kinds = kinds

    def __getitem__(self, item: tuple[Any, str]) -> Any:
        array, axes = item
        return Annotated[array, Dims(self.kinds, tuple(axes.split()))]


Array = np.ndarray
if TYPE_CHECKING:
    from typing import Annotated as Bool
    from typing import Annotated as Float
    from typing import Annotated as Int
    from typing import Annotated as UInt8
else:
    Float = _ArrayType("f")
    Int = _ArrayType("iu")
    UInt8 = _ArrayType("u")
    Bool = _ArrayType("b")


def check(value: Any, hint: Any, sizes: dict[str, int], where: str) -> None:
    """Raise TypeError unless ``value`` fits ``hint``; ``sizes`` binds letters as it goes."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        for dims in hint.__metadata__:
            if isinstance(dims, Dims):
                _check_array(value, dims, sizes, where)
    elif origin in (typing.Union, types.UnionType):
        options = [a for a in typing.get_args(hint) if a is not type(None)]
        if value is not None and len(options) == 1:
            check(value, options[0], sizes, where)
    elif origin is tuple and isinstance(value, tuple):
        for i, (item, item_hint) in enumerate(zip(value, typing.get_args(hint), strict=False)):
            check(item, item_hint, sizes, f"{where}[{i}]")


def _check_array(value: Any, dims: Dims, sizes: dict[str, int], where: str) -> None:
    shape, axes = getattr(value, "shape", None), dims.axes
    if shape is None:
        raise TypeError(
            f"{where}: expected an array [{' '.join(axes)}], got {type(value).__name__}"
        )
    if np.dtype(value.dtype).kind not in dims.kinds:
        raise TypeError(f"{where}: dtype {value.dtype} is not one of kinds {dims.kinds!r}")
    if "..." in axes:
        axes = axes[axes.index("...") + 1 :]
        shape = shape[len(shape) - len(axes) :]
    fits = len(shape) == len(axes) and all(
        sizes.setdefault(axis, size) == size if axis in GLOSSARY else int(axis) == size
        for axis, size in zip(axes, shape, strict=True)
    )
    if not fits:
        known = {axis: sizes[axis] for axis in axes if axis in sizes}
        raise TypeError(f"{where}: shape {value.shape} is not [{' '.join(dims.axes)}] with {known}")


def checked(function: Any) -> Any:
    """Wrap ``function`` so that every call checks the shapes its signature states."""
    hints = typing.get_type_hints(function, include_extras=True)
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args, **kwargs):
        sizes: dict[str, int] = {}
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            check(value, hints.get(name), sizes, f"{function.__qualname__}({name})")
        result = function(*args, **kwargs)
        check(result, hints.get("return"), sizes, f"{function.__qualname__} -> ")
        return result

    return call
