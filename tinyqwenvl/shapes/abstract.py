"""Abstract arrays: they have a shape and a dtype, but no values.

The reference implementations use NumPy functions only, so they run on abstract arrays unchanged.
The result has the shape that the real array would have, and a :class:`Meter` counts the FLOPs. No
values are stored, so a model of 72 billion weights costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np


class Meter:
    """Floating-point operations so far; a multiplication with its addition counts as two."""

    def __init__(self) -> None:
        self.flops = 0

    def add_product(self, batch: int, rows: int, inner: int, columns: int) -> None:
        """Count ``batch`` matrix products [rows, inner] @ [inner, columns]."""
        self.flops += 2 * batch * rows * inner * columns


class Abstract(np.lib.mixins.NDArrayOperatorsMixin):
    """An array without values. Results of operations are abstract too and share the meter."""

    def __init__(self, shape: Sequence[int], dtype: Any = np.float32, meter: Meter | None = None):
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype)
        self.meter = meter or Meter()

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements that a real array would have."""
        return math.prod(self.shape)

    def __repr__(self) -> str:
        return f"Abstract({list(self.shape)}, {self.dtype})"

    def like(self, shape: Sequence[int], dtype: Any = None) -> Abstract:
        """Another abstract array with the same meter."""
        return Abstract(shape, self.dtype if dtype is None else dtype, self.meter)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Abstract]:
        return (self.like(self.shape[1:]) for _ in range(self.shape[0]))

    def __getitem__(self, key: Any) -> Abstract:
        return self.like(self._ghost()[key].shape)

    def _ghost(self) -> np.ndarray:
        """A real array of this shape that takes no memory: one broadcast value."""
        return np.broadcast_to(np.zeros((), self.dtype), self.shape)

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("an abstract array has no values")

    def __bool__(self) -> bool:
        raise TypeError("an abstract array has no values to branch on")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Abstract:
        if method != "__call__" or kwargs:
            return NotImplemented
        if ufunc is np.matmul:
            return _matmul(self.meter, *inputs)
        dtypes = [i if isinstance(i, (int, float)) else i.dtype for i in inputs]
        shape = np.broadcast_shapes(*(np.shape(_ghostly(i)) for i in inputs))
        return self.like(shape, np.result_type(*dtypes))

    def __array_function__(
        self, function: Callable, types: Any, args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        if function not in _RULES:
            raise TypeError(f"no shape rule for numpy.{function.__name__}")
        return _RULES[function](self, *args, **kwargs)


def _ghostly(value: Any) -> Any:
    return value._ghost() if isinstance(value, Abstract) else value


def _matmul(meter: Meter, a: Any, b: Any) -> Abstract:
    (*batch_a, rows, inner), (*batch_b, inner_b, columns) = a.shape, b.shape
    if inner != inner_b:
        raise ValueError(f"matmul of {list(a.shape)} and {list(b.shape)}")
    batch = np.broadcast_shapes(tuple(batch_a), tuple(batch_b))
    meter.add_product(math.prod(batch), rows, inner, columns)
    return Abstract((*batch, rows, columns), np.result_type(a.dtype, b.dtype), meter)


# ------------------------------------------------------------------ one rule per NumPy function
#
# The first argument is any abstract array of the call; the call's own arguments follow.


def _view(function: Callable) -> Callable:
    """The rule for functions that only change the view of an array."""
    return lambda self, x, *args, **kwargs: x.like(function(x._ghost(), *args, **kwargs).shape)


def _reduce(self: Abstract, x: Abstract, axis: int, keepdims: bool = False) -> Abstract:
    axis %= x.ndim
    return x.like((*x.shape[:axis], *[1] * keepdims, *x.shape[axis + 1 :]))


def _reshape(self: Abstract, x: Abstract, shape: Sequence[int]) -> Abstract:
    known = -math.prod(shape) if -1 in shape else math.prod(shape)
    if x.size % known or (-1 not in shape and x.size != known):
        raise ValueError(f"cannot reshape {list(x.shape)} into {list(shape)}")
    return x.like([x.size // known if n == -1 else n for n in shape])


def _concatenate(self: Abstract, parts: Sequence[Any], axis: int = 0) -> Abstract:
    shape = list(parts[0].shape)
    for part in parts[1:]:
        a, b = (np.delete(p.shape, axis) for p in (parts[0], part))
        if not np.array_equal(a, b):
            raise ValueError(f"cannot concatenate {[list(p.shape) for p in parts]}")
        shape[axis] += part.shape[axis]
    return self.like(shape)


def _take(self: Abstract, x: Abstract, indices: np.ndarray, axis: int = 0) -> Abstract:
    return x.like((*x.shape[:axis], *np.shape(indices), *x.shape[axis + 1 :]))


def _repeat(self: Abstract, x: Abstract, repeats: int, axis: int) -> Abstract:
    return x.like([n * repeats if i == axis else n for i, n in enumerate(x.shape)])


def _where(self: Abstract, condition: Any, x: Any, y: Any) -> Abstract:
    return self.like(np.broadcast_shapes(*(np.shape(_ghostly(v)) for v in (condition, x, y))))


_RULES: dict[Callable, Callable] = {
    np.shape: lambda self, x: x.shape,
    np.size: lambda self, x: x.size,
    np.transpose: _view(np.transpose),
    np.swapaxes: _view(np.swapaxes),
    np.astype: lambda self, x, dtype: x.like(x.shape, dtype),
    np.reshape: _reshape,
    np.mean: _reduce,
    np.max: _reduce,
    np.sum: _reduce,
    np.concatenate: _concatenate,
    np.take: _take,
    np.repeat: _repeat,
    np.where: _where,
}
