"""Padding in a candidate: windows padded to a fixed size, prompts padded to a bucket.

Which rows are padding follows from the reference's geometry: grids, ``cu_window_seqlens``, and the
ids of the prompt. If several ways to pad give the same number of rows, the values of the first
stage decide for the later ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .dump import Dump, Entry, grids_of

WINDOW = 64  # patches of a whole window: (112 / 14) ** 2


class Padding:
    """What is known of a candidate's padding."""

    def __init__(self, reference: Dump, candidate: Dump):
        self.reference, self.candidate = reference, candidate
        self.ways: dict[tuple[str, tuple[int, ...]], str] = {}  # (order, rows) -> how
        self.found: Counter[tuple[int, str]] = Counter()  # (rows left out, how) -> stages

    def left_out(
        self, name: str, letter: str, ours: Sequence[Entry], rows: Sequence[Any]
    ) -> list[Any] | None:
        """The candidate's calls without padding rows, or None when no way of padding fits.

        ``rows``: of :class:`tinyqwenvl.oracle.align.Rows`. A vision encoder may have been called
        once per call of ours or once per image.
        """
        if letter in ("S", "K"):
            return self._prompt(name, ours, rows)
        if letter not in ("N", "M"):
            return None
        order = str(ours[0].info.get("order", ""))
        parts = self._parts(len(rows), 4 if letter == "M" else 1)
        if parts is None:
            return None
        options: dict[str, list[Any]] = {}
        for part, (windows, grids) in zip(rows, parts, strict=True):
            for how, keep in ways(windows, grids, part.count, 4 if letter == "M" else 1, order):
                options.setdefault(how, []).append(replace(part, keep=tuple(keep.tolist())))
        options = {how: found for how, found in options.items() if len(found) == len(rows)}
        return self._chosen((f"{letter} {order}", name), ours, rows, options)

    def _chosen(
        self,
        of: tuple[str, str],
        ours: Sequence[Entry],
        rows: Sequence[Any],
        options: dict[str, list[Any]],
    ) -> list[Any] | None:
        """The padding found for the same rows before, or the closest to the reference."""
        if not options:
            return None
        known = (of[0], tuple(part.count for part in rows))
        how = self.ways.get(known)
        if how not in options:
            how = min(options, key=lambda option: _error(ours, options[option]))
            self.ways[known] = how
        chosen = options[how]
        left = sum(p.count for p in rows) - sum(p.count for p in chosen)
        self.found[left, how] += 1
        return chosen

    def _prompt(self, name: str, ours: Sequence[Entry], rows: Sequence[Any]) -> list[Any] | None:
        """A prompt with padding before or after it; decoding steps are unchanged."""
        wanted = ours[0].shape[rows[0].axis]
        count = rows[0].count
        if count <= wanted:
            return None
        starts = {"before the prompt": count - wanted, "after the prompt": 0}
        if (ids := self._ids(count)) is not None:
            start = _start(*ids)
            if start is None:  # another prompt, which is longer
                return None
            starts = {"around the prompt": start}
        options = {
            how: [replace(rows[0], keep=tuple(range(at, at + wanted))), *rows[1:]]
            for how, at in starts.items()
        }
        return self._chosen(("S", name), ours, rows, options)

    def _ids(self, count: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Ids of the reference and of the candidate; None where these are not ``count``."""
        ours, theirs = self.reference.get("input_ids"), self.candidate.get("input_ids")
        if ours is None or theirs is None or int(np.prod(theirs.shape)) != count:
            return None
        return np.reshape(ours.read(), -1), np.reshape(theirs.read(), -1)

    def _parts(self, calls: int, unit: int) -> list[tuple[np.ndarray, np.ndarray]] | None:
        """(rows of each window, grids) of each of the candidate's calls: one per call of ours, or
        one per image; None when it is neither.
        """
        whole = list(_calls(self.reference))
        if calls == len(whole):
            parts = whole
        else:
            parts = [image for windows, grids in whole for image in _images(windows, grids)]
        if calls != len(parts):
            return None
        return [(windows // unit, grids) for windows, grids in parts]

    def told(self) -> list[str]:
        """A line for each kind of padding."""
        return [
            f"{rows} padding rows {how} left out in {stages} stage" + "s" * (stages != 1)
            for (rows, how), stages in sorted(self.found.items(), reverse=True)
        ]


def _start(ids: np.ndarray, padded: np.ndarray) -> int | None:
    """The index at which ids begin in padded ones; None if they are not there."""
    starts = range(len(padded) - len(ids) + 1)
    return next((i for i in starts if np.array_equal(padded[i : i + len(ids)], ids)), None)


def _calls(dump: Dump) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(patches of each window, grids [I, 3]) of every call of the reference's vision encoder."""
    names = [n for n in ("image_grid_thw", "video_grid_thw") if dump.get(n) is not None]
    for call, name in enumerate(names):
        grids, entry = grids_of(dump.get(name)), dump.get("visual.cu_window_seqlens", call)
        if grids is None:
            continue
        windows = np.repeat(grids[:, 1] * grids[:, 2], grids[:, 0])
        bounds = None if entry is None else np.reshape(entry.read(), -1)
        if bounds is not None and bounds.dtype.kind in "iu":
            windows = np.diff(bounds)
        if np.all(windows > 0) and np.sum(windows) == np.sum(np.prod(grids, axis=1)):
            yield windows, grids


def _images(windows: np.ndarray, grids: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same for each image or video alone."""
    bounds = np.cumsum(np.prod(grids, axis=1))
    of = np.searchsorted(bounds, np.cumsum(windows))
    for number, grid in enumerate(grids):
        yield windows[of == number], grid[None]


def ways(
    windows: np.ndarray, grids: np.ndarray, rows: int, unit: int, order: str
) -> Iterator[tuple[str, np.ndarray]]:
    """(how, indices of the rows that are no padding), for each way to pad to ``rows`` rows.

    ``windows``: rows of each window; ``unit``: patches per row.
    """
    count = int(np.sum(windows))
    if rows < count:
        return
    if order in ("window", "merge"):
        full = WINDOW // unit
        sizes = {rows // len(windows), full} if rows % len(windows) == 0 else {full}
        for size in sorted(sizes):
            if size < np.max(windows) or size * len(windows) > rows:
                continue
            starts = np.arange(len(windows)) * size
            yield (
                "of windows",
                np.concatenate(
                    [start + np.arange(n) for start, n in zip(starts, windows, strict=True)]
                ),
            )
            places = list(_in_the_plane(grids, size, unit))
            if [len(place) for place in places] == windows.tolist():
                yield (
                    "beside windows",
                    np.concatenate(
                        [start + place for start, place in zip(starts, places, strict=True)]
                    ),
                )
    yield "at the end", np.arange(count)


def _in_the_plane(grids: np.ndarray, size: int, unit: int) -> Iterator[np.ndarray]:
    """Indices of each window's rows if it is padded on the right and below."""
    group = 4 // unit  # rows per merge group
    side = int(np.sqrt(size // group))
    for t, h, w in (grids // (1, 2, 2)).tolist():
        for _ in range(t):
            for top in range(0, h, side):
                for left in range(0, w, side):
                    high, wide = min(side, h - top), min(side, w - left)
                    at = (np.arange(high)[:, None] * side + np.arange(wide)).reshape(-1)
                    yield (at[:, None] * group + np.arange(group)).reshape(-1)


def _error(ours: Sequence[Entry], parts: Sequence[Any]) -> float:
    """Squared error of the candidate's rows over the reference's squares; infinite when the rows
    do not add up.
    """
    axis = parts[0].axis
    theirs = np.concatenate([part.read() for part in parts], axis=axis)
    count = theirs.shape[axis]
    arrays: list[np.ndarray] = []
    for entry in ours:
        if sum(a.shape[axis] for a in arrays) < count:
            arrays.append(entry.read())
    expected = np.concatenate(arrays, axis=axis)
    if expected.shape != theirs.shape:
        return float("inf")
    with np.errstate(all="ignore"):
        off = np.sum(np.square(theirs - expected, dtype=np.float64))
        return float(np.nan_to_num(off, nan=np.inf)) / max(
            float(np.sum(np.square(expected))), 1e-30
        )
