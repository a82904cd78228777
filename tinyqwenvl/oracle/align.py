"""Bringing a candidate into the shape of the reference before the two are compared.

Runtimes cut a prompt in other pieces than we do: a prefill of S - 1 tokens and then 1, chunks of 40
tokens, one call of the vision encoder per image, windows padded to a fixed size, and a last layer
that computes only the row whose logits are wanted. :func:`align` joins such calls, leaves padding
rows out, and narrows the reference to the rows that the candidate holds. It says so in the notes of
the candidate, moves no row that fits already, and changes nothing where the shapes agree.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .dump import Dump, Entry, geometry
from .padding import Padding
from .stages import BEGINNINGS, about

ROWS = ("S", "K", "N", "M", "I", "G")  # letters of axes along which calls are joined
BOUNDS = ("visual.cu_seqlens", "visual.cu_window_seqlens")
OFFSET = (*BOUNDS, "visual.window_index")  # values that count from the start of a call


def align(reference: Dump, candidate: Dump) -> tuple[Dump, Dump]:
    """(reference, candidate) with calls joined and padding left out, both reduced to common rows.

    An entry of the reference of which only some rows are compared says which in
    ``info["rows"]``: (axis, indices). Stages that cannot be matched stay as they are.
    """
    work = _Work(reference, candidate)
    ours, theirs = _by_name(reference), _by_name(candidate)
    for name, calls in theirs.items():
        if name not in ours or work.fits(ours[name], calls):
            work.keep(calls)
        else:
            work.stage(name, ours[name], calls)
    if not work.changed:
        return reference, candidate
    aligned = Dump(candidate.source, work.entries, candidate.about, candidate.inputs)
    aligned.notes = [*candidate.notes, *work.told()]
    narrowed = {key: work.narrowed.get(key, entry) for key, entry in reference.entries.items()}
    return replace(reference, entries=narrowed), aligned


def _by_name(dump: Dump) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = defaultdict(list)
    for entry in sorted(dump, key=lambda e: e.call):
        found[entry.name].append(entry)
    order = dict.fromkeys(entry.name for entry in dump)
    return {name: found[name] for name in order}


# ------------------------------------------------------------------ rows


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
    """Heads in one row, [rows, heads * d], as rows of [heads, rows, d]."""
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


# ------------------------------------------------------------------ the work


@dataclass
class _Work:
    """What was found out so far, and the entries of the aligned dumps."""

    reference: Dump
    candidate: Dump
    entries: dict[tuple[str, int], Entry] = field(default_factory=dict)
    narrowed: dict[tuple[str, int], Entry] = field(default_factory=dict)
    changed: bool = False
    joined: Counter = field(default_factory=Counter)  # calls -> stages
    last: list[str] = field(default_factory=list)  # stages of which the last rows are there
    empty: list[str] = field(default_factory=list)
    split: int = 0
    heads: int = 0  # stages whose heads stood in one row
    plans: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)  # letter -> calls

    def __post_init__(self) -> None:
        self.family = str(self.reference.about.get("model_type", "qwen2_5_vl"))
        self.padding = Padding(self.reference, self.candidate)
        numbers = [int(n) for e in self.reference if (n := _layer_of(e.name))]
        last = f"model.layers.{max(numbers, default=-1)}"
        self.ends = re.compile(
            rf"{re.escape(last)}(\..*)?|model\.norm|lm_head"
        )  # where rows may be left out

    def fits(self, ours: Sequence[Entry], theirs: Sequence[Entry]) -> bool:
        """Whether every call has the shape of the reference's, but for axes of one."""
        calls = {entry.call: entry for entry in ours}
        known = [(calls[e.call], e) for e in theirs if e.call in calls]
        return all(_plain(a.shape) == _plain(b.shape) for a, b in known)

    def keep(self, calls: Iterable[Entry]) -> None:
        """Calls as they are."""
        self.entries.update({(e.name, e.call): e for e in calls})

    def stage(self, name: str, ours: Sequence[Entry], theirs: Sequence[Entry]) -> None:
        """Align all calls of one stage."""
        if name == "generated":
            self._generated(theirs)
            return
        filled = [e for e in theirs if 0 not in e.shape]
        if len(filled) < len(theirs):
            self.empty.append(name)
            self.changed = True
        axes = about(name, self.family).axes
        letter = next((a for a in axes if a in ROWS), None)
        if letter is None or len(axes) != len(ours[0].shape):
            self.keep(filled)
            return
        axis = axes.index(letter)
        found = [as_rows(e, ours[0].shape, axis) for e in theirs if 0 not in e.shape]
        rows = [r for r in found if r is not None]
        if len(rows) < len(found) or not rows:  # of another width: a shape verdict
            self.keep(filled)
            return
        groups = self._groups(name, letter, ours, rows, len(theirs))
        if groups is None:
            self.keep(filled)
            return
        self.changed = True
        self._write(name, ours, groups)

    def _groups(
        self, name: str, letter: str, ours: Sequence[Entry], rows: list[Rows], given: int
    ) -> list[tuple[list[Rows], tuple[int, ...] | None]] | None:
        """For every call of the reference the candidate's parts, and which rows they are (None:
        all); further parts are calls of their own.
        """
        axis = rows[0].axis
        wanted = [e.shape[axis] for e in ours]
        if name in BOUNDS:  # each call begins with a 0
            groups = spread([r.count - 1 for r in rows], [n - 1 for n in wanted])
            return _picked(rows, groups)
        groups = spread([r.count for r in rows], wanted)
        if groups is not None:
            self._plan(letter, groups, [r.count for r in rows])
            return _picked(rows, groups)
        if letter == "K" and (caches := _caches(rows, wanted)):
            return caches
        if (unpadded := self.padding.left_out(name, letter, ours, rows)) is not None:
            return _picked(unpadded, spread([r.count for r in unpadded], wanted))
        if not self.ends.fullmatch(name):
            return None
        return self._last_rows(name, letter, rows, wanted, given)

    def _plan(self, letter: str, groups: list[list[int]], rows: list[int]) -> None:
        """Remember how the candidate cuts the prompt: for each call (reference's call, rows)."""
        plan = []
        for call, group in enumerate(groups):
            start = 0
            for number in group:
                plan.append((call, start, start + rows[number]))
                start += rows[number]
        known = self.plans.get(letter, [])
        if len(plan) > len(known):
            self.plans[letter] = plan

    def _last_rows(
        self, name: str, letter: str, rows: list[Rows], wanted: Sequence[int], given: int
    ) -> list[tuple[list[Rows], tuple[int, ...] | None]] | None:
        """Only the last rows of each call, as where a runtime computes just the logits it needs."""
        whole = [(call, 0, count) for call, count in enumerate(wanted)]
        plan = self.plans.get("S" if letter == "K" else letter, whole)
        plan = plan if len(plan) >= len(rows) else whole
        if len(rows) > len(plan) or given > len(plan):
            return None
        # Calls without any output leave nothing: what is there belongs to the last of each group.
        ends = [p for i, p in enumerate(plan) if i + 1 == len(plan) or plan[i + 1][0] != p[0]]
        plan = plan if len(rows) == len(plan) else ends[: len(rows)]
        if len(plan) < len(rows):
            return None
        groups: list[tuple[list[Rows], tuple[int, ...] | None]] = [([], ()) for _ in wanted]
        for part, (call, start, stop) in zip(rows, plan, strict=True):
            if part.count > stop - start:
                return None
            parts, at = groups[call]
            assert at is not None
            groups[call] = ([*parts, part], (*at, *range(stop - part.count, stop)))
        self.last.append(name)
        return [
            (p, None if at == tuple(range(n)) else at)
            for (p, at), n in zip(groups, wanted, strict=True)
        ]

    def _write(
        self,
        name: str,
        ours: Sequence[Entry],
        groups: list[tuple[list[Rows], tuple[int, ...] | None]],
    ) -> None:
        """The aligned calls of a stage."""
        for call, (parts, at) in enumerate(groups):
            if not parts:
                continue
            self.joined[len(parts)] += len(parts) > 1
            self.heads += parts[0].heads > 0
            axis, first = parts[0].axis, parts[0]
            count = sum(p.count for p in parts) - (len(parts) - 1) * (name in BOUNDS)
            shape = (*first.shape[:axis], count, *first.shape[axis + 1 :])
            entry = replace(first.entry, call=call, shape=shape, load=_Joined(name, tuple(parts)))
            self.entries[name, call] = entry
            if at is not None and call < len(ours):
                self.narrowed[name, call] = narrowed(ours[call], axis, at)

    def _generated(self, theirs: Sequence[Entry]) -> None:
        """One array of all generated ids: a call each."""
        if len(theirs) != 1 or len(_plain(theirs[0].shape)) > 1:
            self.keep(theirs)
            return
        ids = np.reshape(theirs[0].read(), -1)
        self.changed, self.split = True, len(ids)
        for call in range(len(ids)):
            part = replace(theirs[0], call=call, shape=(1,), load=_One(ids[call : call + 1]))
            self.entries["generated", call] = part

    def told(self) -> list[str]:
        """What was done, a line each."""
        lines = [
            f"{calls} calls joined to one in {_stages(count)}"
            for calls, count in sorted(self.joined.items(), reverse=True)
            if calls > 1
        ]
        lines += self.padding.told()
        if self.last:
            some = ", ".join(self.last[:3]) + (", ..." if len(self.last) > 3 else "")
            lines.append(
                f"last rows only in {_stages(len(self.last))} ({some}): these are compared"
            )
        if self.heads:
            lines.append(f"heads in one row in {_stages(self.heads)}: read as [heads, rows, d]")
        if self.empty:
            some = ", ".join(self.empty[:3]) + (", ..." if len(self.empty) > 3 else "")
            lines.append(f"empty tensors left out in {_stages(len(self.empty))} ({some})")
        if self.split:
            lines.append(f"generated: {self.split} ids in one array, taken as one step each")
        return lines


def _layer_of(name: str) -> str:
    """The number of the decoder layer that a stage belongs to, or ""."""
    return name.split(".")[2] if re.match(r"model\.layers\.\d{1,6}(\.|$)", name) else ""


def _stages(count: int) -> str:
    return f"{count} stage" + "s" * (count != 1)


def _plain(shape: tuple[int, ...]) -> list[int]:
    return [n for n in shape if n != 1]


def _picked(
    rows: list[Rows], groups: list[list[int]] | None
) -> list[tuple[list[Rows], tuple[int, ...] | None]] | None:
    """Groups of rows, and what is left over as calls of its own."""
    if groups is None:
        return None
    used = sum(map(len, groups))
    picked: list[tuple[list[Rows], tuple[int, ...] | None]] = [
        ([rows[i] for i in group], None) for group in groups
    ]
    return picked + [([part], None) for part in rows[used:]]


def _caches(
    rows: list[Rows], wanted: Sequence[int]
) -> list[tuple[list[Rows], tuple[int, ...] | None]]:
    """Keys of a whole cache: the call that has as many as the reference's has all of them."""
    by_count = {part.count: part for part in rows}
    if not all(count in by_count for count in wanted[: len(rows)]):
        return []
    return [([by_count[count]] if count in by_count else [], None) for count in wanted]


def narrowed(entry: Entry, axis: int, rows: tuple[int, ...]) -> Entry:
    """An entry of the reference, reduced to some rows."""
    shape = (*entry.shape[:axis], len(rows), *entry.shape[axis + 1 :])
    info = {**entry.info, "rows": (axis, rows)}
    return replace(entry, shape=shape, load=_Taken(entry, axis, rows), info=info)


@dataclass(frozen=True)
class _Taken:
    entry: Entry
    axis: int
    rows: tuple[int, ...]

    def __call__(self) -> np.ndarray:
        return np.take(self.entry.read(), self.rows, axis=self.axis)


@dataclass(frozen=True)
class _Joined:
    name: str
    parts: tuple[Rows, ...]

    def __call__(self) -> np.ndarray:
        arrays = [part.read() for part in self.parts]
        if self.name in OFFSET:
            arrays = list(_counted_on(arrays, self.name in BOUNDS))
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=self.parts[0].axis)


@dataclass(frozen=True)
class _One:
    array: np.ndarray

    def __call__(self) -> np.ndarray:
        return self.array


def _counted_on(arrays: list[np.ndarray], bounds: bool) -> Iterable[np.ndarray]:
    """Bounds or indices of several calls, counted from the start of the first."""
    start = 0
    for number, array in enumerate(arrays):
        yield (array[1:] if bounds and number else array) + start
        start += int(array[-1]) if bounds else len(array)


def unmatched(reference: Dump, candidate: Dump, name: str) -> bool:
    """Whether a stage has other rows than the reference though all integers are the reference's.

    No injected bug changes the number of rows alone, so that there is nothing to search for.
    """
    for entry in reference:
        theirs = candidate.get(entry.name, entry.call)
        if theirs is None or not entry.exact or entry.name.startswith("generated"):
            continue
        if _plain(theirs.shape) != _plain(entry.shape):
            return False
        if not np.array_equal(np.squeeze(theirs.read()), np.squeeze(entry.read())):
            return False
    return name.partition("#")[0] not in BEGINNINGS and not name.startswith("image.")


__all__ = ["Rows", "align", "as_rows", "geometry", "narrowed", "spread", "unmatched"]
