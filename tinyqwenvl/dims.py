"""The dimension letters, and array types that carry a shape: ``Float[Array, "N D"]``.

Every stage states its shapes in its signature. They have no effect in ordinary use. The tests wrap
every function of the package in :func:`checked`: it binds each letter to a size the first time it
appears in a call, and raises TypeError if the same letter later has another size. Any object with
a ``.shape`` counts as an array, so proxies, tracers and other libraries' arrays work too.
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
    "P": "values in one patch: 3 channels * 2 frames * 14 * 14 pixels = 1176",
    "M": "image tokens, N / 4: the merger maps each 2x2 merge group to one token",
    "G": "boundaries of attention segments (windows, or frame pairs): segments + 1",
    "S": "sequence length: query positions computed in this call",
    "K": "key positions: S, plus the tokens in the KV cache",
    "D": "hidden size of the residual stream that a function reads",
    "E": "output size, where it differs from D",
    "A": "attention (query) heads",
    "B": "key/value heads (grouped-query attention); B divides A",
    "d": "head dimension",
    "V": "vocabulary size",
}


class Dims(NamedTuple):
    """The content of ``Float[Array, "N D"]``: dtype kinds; a letter, number or ``...`` per axis."""

    kinds: str  # NumPy dtype kinds: "f", "iu", "u" or "b"
    axes: tuple[str, ...]  # a letter of GLOSSARY, a number or ``...`` each


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
    """Raise TypeError unless ``value`` matches ``hint``; ``sizes`` collects the bound letters."""
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
    """Wrap ``function`` so that every call checks the shapes of its signature."""
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
