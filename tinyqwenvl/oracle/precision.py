"""Emulate other number formats, to measure the error of rounding alone.

A :class:`Rounded` array holds float32 values and rounds the result of every NumPy operation to
another format. The stages run on it as on any array. (A matrix product
is one operation: its sums are float32, as on most hardware.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..checkpoint import to_bfloat16, to_float
from ..errors import UserError
from ..model import Inputs, Model
from ..weights import change

Rounding = Callable[[np.ndarray], np.ndarray]


def to_float16(x: np.ndarray) -> np.ndarray:
    """Rounded to float16 (11 bits; beyond 65,504 it is infinite), as float32."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32)


def to_bf16(x: np.ndarray) -> np.ndarray:
    """Rounded to bfloat16 (8 bits, the range of float32), as float32."""
    rounded = to_float(to_bfloat16(x))
    return np.where(np.isfinite(x), rounded, x)


class Rounded(np.ndarray):
    """float32 values, rounded by ``rounding`` after every operation."""

    rounding: Rounding | None = None

    def __array_finalize__(self, source: Any) -> None:
        self.rounding = getattr(source, "rounding", None)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if "out" in kwargs:  # numpy's own mean divides in place
            kwargs["out"] = tuple(_plain(out) for out in kwargs["out"])
        result = getattr(ufunc, method)(*map(_plain, inputs), **kwargs)
        rounding = next(x.rounding for x in (*inputs, self) if isinstance(x, Rounded))
        return rounded(result, rounding) if _is_float(result) else result

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        result = super().__array_function__(function, types, args, kwargs)
        if isinstance(result, Rounded) or not _is_float(result):
            return result
        return rounded(result, self.rounding)  # where() and similar functions drop the class


def _plain(x: Any) -> Any:
    return x.view(np.ndarray) if isinstance(x, Rounded) else x


def _is_float(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind == "f"


def rounded(x: np.ndarray, rounding: Rounding | None) -> Rounded:
    """The values of ``x``, rounded, in an array that keeps rounding."""
    plain = np.asarray(_plain(x), np.float32)
    result = (rounding(plain) if rounding else plain).view(Rounded)
    result.rounding = rounding
    return result


def quantise(matrix: np.ndarray) -> np.ndarray:
    """Weights [E, ...] -> the nearest of 255 multiples (-127 to 127) of one step per row."""
    rows = np.reshape(matrix, (len(matrix), -1))
    step = np.max(np.abs(rows), axis=1, keepdims=True) / 127
    return np.reshape(np.round(rows / np.where(step > 0, step, 1)) * step, matrix.shape)


def _int8(name: str, leaf: np.ndarray) -> np.ndarray:
    """Every matrix but the embedding (and a head tied to it)."""
    linear = leaf.ndim > 1 and not name.startswith(("model.embed_tokens", "lm_head"))
    return quantise(leaf).astype(leaf.dtype) if linear else leaf


ROUNDINGS: dict[str, Rounding] = {"float16": to_float16, "bfloat16": to_bf16}
PRECISIONS = ("float32", "float16", "bfloat16", "int8")


def in_precision(model: Model, precision: str) -> Model:
    """The same model in "float64", "float32", "float16", "bfloat16", or with "int8" weights.

    Every matrix of "int8" but the embedding and the head is rounded to 8 bits, one scale per row;
    everything else is unchanged.
    """
    if precision in ("float64", "float32"):
        dtype = np.dtype(precision)
        weights = change(model.weights, lambda _, leaf: np.asarray(leaf, dtype))
        return replace(model, weights=weights, dtype=dtype.type)
    if precision == "int8":
        return replace(model, weights=change(model.weights, _int8))
    if precision not in ROUNDINGS:
        raise UserError(f"unknown precision {precision}; known are {', '.join(PRECISIONS)}")
    rounding = ROUNDINGS[precision]
    return replace(model, weights=change(model.weights, lambda _, leaf: rounded(leaf, rounding)))


def inputs_in(inputs: Inputs, dtype: Any, precision: str | None) -> Inputs:
    """Patches in the format in which the model computes: its dtype, rounded to ``precision``."""
    fields = ("pixel_values", "pixel_values_videos")
    given: dict[str, Any] = {n: x for n in fields if (x := getattr(inputs, n)) is not None}
    given = {n: x.astype(dtype, copy=False) for n, x in given.items()}
    if precision in ROUNDINGS:
        given = {n: rounded(x, ROUNDINGS[precision]) for n, x in given.items()}
    return replace(inputs, **given)
