"""Rows of a candidate's calls: read in the reference's shape, joined, and selected."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from .dump import Entry

BOUNDS = ("visual.cu_seqlens", "visual.cu_window_seqlens")
OFFSET = (*BOUNDS, "visual.window_index")  # values that count from the start of a call


@dataclass(frozen=True)
class Rows:
    """Rows of one call of a candidate: ``keep`` of them along ``axis`` of ``shape``."""

    entry: Entry
    shape: tuple[int, ...]  # the candidate's, with as many axes as the reference's
    axis: int
    keep: tuple[int, ...] | None = None  # None: all
    heads: int = 0  # given as [rows, heads * d], where the reference has [heads, rows, d]

    @property
    def count(self) -> int:
        """How many."""
        return self.shape[self.axis] if self.keep is None else len(self.keep)

    def read(self) -> np.ndarray:
        """The rows."""
        array = self.entry.read()
        if self.heads:
            array = np.swapaxes(np.reshape(array, (self.shape[1], self.heads, -1)), 0, 1)
        array = np.reshape(array, self.shape)
        return array if self.keep is None else np.take(array, self.keep, axis=self.axis)


def as_rows(entry: Entry, like: tuple[int, ...], axis: int) -> Rows | None:
    """A call as rows of the reference's shape, or None when another axis differs.

    Leading axes of one are dropped, a missing row axis is added, and windows as a batch
    ([windows, rows, D]) are read one after the other.
    """
    shape = entry.shape
    while len(shape) > len(like) and shape[0] == 1:
        shape = shape[1:]
    rest = like[:axis] + like[axis + 1 :]
    if len(shape) == len(like) - 1 and shape == rest:
        shape = (*shape[:axis], 1, *shape[axis:])
    if len(shape) == len(like) + 1 and axis == 0 and shape[2:] == rest:
        shape = (shape[0] * shape[1], *rest)
    if axis == 1 and len(like) == 3 and (heads := _side_by_side(entry, like)) is not None:
        return heads
    fits = len(shape) == len(like) and shape[:axis] + shape[axis + 1 :] == rest
    return Rows(entry, shape, axis) if fits else None


def _side_by_side(entry: Entry, like: tuple[int, ...]) -> Rows | None:
    """Merged heads, [rows, heads * d], as rows of [heads, rows, d]."""
    shape = entry.shape
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    heads, _, size = like
    if heads == 1 or len(shape) != 2 or shape[1] != heads * size:
        return None
    return Rows(entry, (heads, shape[0], size), 1, heads=heads)


def spread(rows: Sequence[int], wanted: Sequence[int]) -> list[list[int]] | None:
    """Which calls of ``rows`` rows make up each call of ``wanted`` rows, in order; None: they do
    not add up. Calls may be left over; calls that are wanted may be missing at the end.
    """
    groups: list[list[int]] = []
    number = 0
    for need in wanted:
        group: list[int] = []
        while need > 0 and number < len(rows):
            group.append(number)
            need -= rows[number]
            number += 1
        if need and group:
            return None
        groups.append(group)
    return groups


# For every call of the reference the candidate's parts, and which rows they are (None: all); what
# follows are calls of their own.
Groups: TypeAlias = list[tuple[list[Rows], tuple[int, ...] | None]]


def picked(rows: list[Rows], groups: list[list[int]] | None) -> Groups | None:
    """Groups of rows, and what is left over as calls of its own."""
    if groups is None:
        return None
    used = sum(map(len, groups))
    picked: Groups = [([rows[i] for i in group], None) for group in groups]
    return picked + [([part], None) for part in rows[used:]]


def caches(rows: list[Rows], wanted: Sequence[int]) -> Groups:
    """Keys of a whole cache: the call that has as many as the reference's has all of them."""
    by_count = {part.count: part for part in rows}
    if not all(count in by_count for count in wanted[: len(rows)]):
        return []
    return [([by_count[count]] if count in by_count else [], None) for count in wanted]


def narrowed(entry: Entry, axis: int, rows: tuple[int, ...]) -> Entry:
    """An entry of the reference, reduced to some rows."""
    shape = (*entry.shape[:axis], len(rows), *entry.shape[axis + 1 :])
    info = {**entry.info, "rows": (axis, rows)}
    return replace(entry, shape=shape, load=Taken(entry, axis, rows), info=info)


@dataclass(frozen=True)
class Taken:
    """Reads some rows of an entry."""

    entry: Entry
    axis: int
    rows: tuple[int, ...]

    def __call__(self) -> np.ndarray:
        """The array."""
        return np.take(self.entry.read(), self.rows, axis=self.axis)


@dataclass(frozen=True)
class Joined:
    """Reads several calls as one."""

    name: str
    parts: tuple[Rows, ...]

    def __call__(self) -> np.ndarray:
        """The array."""
        arrays = [part.read() for part in self.parts]
        if self.name in OFFSET:
            arrays = list(_counted_on(arrays, self.name in BOUNDS))
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=self.parts[0].axis)


@dataclass(frozen=True)
class One:
    """An array in memory."""

    array: np.ndarray

    def __call__(self) -> np.ndarray:
        """The array."""
        return self.array


def _counted_on(arrays: list[np.ndarray], bounds: bool) -> Iterable[np.ndarray]:
    """Boundaries or indices of several calls, counted from the start of the first."""
    start = 0
    for number, array in enumerate(arrays):
        yield (array[1:] if bounds and number else array) + start
        start += int(array[-1]) if bounds else len(array)
