"""Orders of rows and values in which a candidate's stage equals the reference's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from .diff import Comparison
from .dump import Dump, Entry, geometry
from .metrics import distance
from .tolerance import band, within

MOST_STAGES = 200  # that a layout is tried on


def explained_by_layouts(comparison: Comparison) -> list[dict[str, Any]]:
    """One line per layout of the first wrong stage, as from :func:`explain.explain`."""
    return [
        {"mutant": f"layout: {name}", "score": round(score, 4), "what": name, "report": ""}
        for name, score in _layouts(comparison)
    ]


def _layouts(comparison: Comparison) -> Iterator[tuple[str, float]]:
    """Layouts of the first wrong stage, each with the share of stages that it corrects."""
    first = comparison.first
    assert first is not None
    entries = {e.key: e for e in comparison.reference}
    later = [v for v in comparison.compared if v.sequence >= first.sequence][:MOST_STAGES]
    for name in layouts_that_fit(comparison, entries[first.name]):
        right = [not v.bad or name in layouts_that_fit(comparison, entries[v.name]) for v in later]
        yield name, sum(right) / len(right)


def layouts_that_fit(comparison: Comparison, entry: Entry) -> list[str]:
    """Orders of one stage in which the candidate equals the reference."""
    theirs = comparison.candidate.get(entry.name, entry.call)
    if theirs is None or math.prod(theirs.shape) != math.prod(entry.shape):
        return []
    ours, array = entry.read(), np.squeeze(theirs.read())
    found = []
    for name, other in layouts(entry, ours, comparison.reference):
        other = np.squeeze(other)
        if other.shape == array.shape and not np.array_equal(other, np.squeeze(ours)):
            limits = (
                (0.0, 0.0, 0.0)
                if entry.exact
                else band(entry, comparison.precision, reference=comparison.reference)
            )
            if within(distance(array, other.astype(array.dtype, copy=False)), limits):
                found.append(name)
    return found


def layouts(entry: Entry, x: np.ndarray, reference: Dump) -> Iterator[tuple[str, np.ndarray]]:
    """(name, the reference's tensor in that order), for every order to try."""
    if x.ndim == 2:
        yield "transposed", x.T
    if x.ndim == 3:
        for name, axes in (("heads after tokens", (1, 0, 2)), ("last two axes swapped", (0, 2, 1))):
            yield name, np.transpose(x, axes)
    if x.ndim < 2:
        return
    yield from _rows(entry, x, reference)
    if x.ndim == 4 and x.shape[-1] == 3:
        yield "colours blue, green, red", x[..., ::-1]
        yield "channels first", np.moveaxis(x, -1, 1)
    if entry.name.startswith("pixel_values") and x.shape[-1] % 3 == 0:
        planes = np.reshape(x, (len(x), 3, -1))
        yield "colours blue, green, red", np.reshape(planes[:, ::-1], x.shape)
        yield "channels last in a patch", np.reshape(np.swapaxes(planes, 1, 2), x.shape)
    if entry.name.endswith((".q", ".k")) and x.shape[-1] % 2 == 0:
        halves = np.reshape(x, (*x.shape[:-1], 2, -1))
        paired = np.reshape(np.swapaxes(halves, -1, -2), x.shape)
        yield "interleaved rotary pairs (neighbouring elements), not half a head apart", paired
    axis = x.ndim - 2
    yield "rows shifted by one", np.roll(x, 1, axis=axis)
    yield "rows shifted by one the other way", np.roll(x, -1, axis=axis)


def _rows(entry: Entry, x: np.ndarray, reference: Dump) -> Iterator[tuple[str, np.ndarray]]:
    """Rows of patches or image tokens in raster, merge or window order, or that undone twice."""
    grid, window = geometry(entry, reference)
    order = entry.info.get("order", "")
    axis = x.ndim - 2
    rows = x.shape[axis]
    if window is not None and len(window):
        block = rows // len(window)
        if block and block * len(window) == rows and order in ("window", "raster", "merge"):
            for name, blocks in (
                ("rows in window order undone", np.argsort(window)),
                ("rows in window order", window),
                ("window order applied twice", window[window]),
                ("window order undone twice", np.argsort(window)[np.argsort(window)]),
            ):
                at = np.reshape(blocks[:, None] * block + np.arange(block), -1)
                yield name, np.take(x, at, axis=axis)
    if grid is not None and order in ("merge", "raster"):
        if int(np.sum(np.prod(grid, axis=1))) == rows:
            raster = np.concatenate(list(_raster(grid)))
            yield "patches in raster order", np.take(x, raster, axis=axis)
        if int(np.sum(np.prod(grid, axis=1))) == 4 * rows:
            turned = np.concatenate(list(_columns(grid // (1, 2, 2))))
            yield "tokens column by column", np.take(x, turned, axis=axis)


def _raster(grids: np.ndarray) -> Iterator[np.ndarray]:
    start = 0
    for t, h, w in grids.tolist():
        merged = np.reshape(np.arange(t * h * w), (t, h // 2, w // 2, 2, 2))
        yield start + np.reshape(np.transpose(merged, (0, 1, 3, 2, 4)), -1)
        start += t * h * w


def _columns(grids: np.ndarray) -> Iterator[np.ndarray]:
    start = 0
    for t, h, w in grids.tolist():
        frame = np.reshape(np.arange(t * h * w), (t, h, w))
        yield start + np.reshape(np.swapaxes(frame, 1, 2), -1)
        start += t * h * w
