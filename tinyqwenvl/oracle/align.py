"""Align a candidate with the reference before the two are compared.

Runtimes split a prompt differently from us: a prefill of S - 1 tokens and then 1, chunks of 40
tokens, one call of the vision encoder per image, windows padded to a fixed size, and a last layer
that computes only the row whose logits are wanted. :func:`align` joins such calls, removes padding
rows out, and narrows the reference to the rows that the candidate holds. The candidate's
notes report it. Rows that fit already are not moved, and where shapes agree nothing changes.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import UserError
from .dump import Dump, Entry
from .media_order import groups_by_medium, media_in_prompt
from .padding import Padding
from .rows import BOUNDS, Groups, Joined, One, Rows, as_rows, caches, narrowed, picked, spread
from .stages import BEGINNINGS, about

ROWS = ("S", "K", "N", "M", "I", "G")  # letters of axes along which calls are joined

FAMILIES = ("qwen2_vl", "qwen2_5_vl")


def align(reference: Dump, candidate: Dump) -> tuple[Dump, Dump]:
    """(reference, candidate) with calls joined and padding removed, both reduced to common rows.

    If only some rows of a reference entry are compared, they are in
    ``info["rows"]``: (axis, indices). Stages that cannot be matched stay as they are. Raises
    UserError for a candidate of another family or size.
    """
    refuse_another_model(reference, candidate)
    work = _Work(reference, candidate)
    ours, theirs = _by_name(reference), _by_name(candidate)
    for name in sorted(theirs, key=lambda n: work.ends.fullmatch(n) is not None):
        calls = theirs[name]
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


def refuse_another_model(reference: Dump, candidate: Dump) -> None:
    """Raise UserError if a candidate clearly has another family or another hidden size."""
    ours, theirs = (str(d.about.get("model_type", "")) for d in (reference, candidate))
    if {ours, theirs} == {*FAMILIES}:
        raise UserError(f"{candidate.source} is from a {theirs}, {reference.source} from a {ours}")
    pairs = []
    for entry in candidate:
        known = reference.get(entry.name, entry.call)
        sizes = about(entry.name).axes[-1:] == ("D",) and known is not None
        if sizes and known is not None and known.shape and entry.shape:
            pairs.append((entry, known))
    wrong = [(a, b) for a, b in pairs if a.shape[-1] != b.shape[-1]]
    if len(wrong) > 2 and len(wrong) == len(pairs):
        other, known = wrong[0]
        raise UserError(
            f"{candidate.source} is from a model of another size: {other.key} has "
            f"hidden size {other.shape[-1]}, the reference's {known.shape[-1]}"
        )


def _by_name(dump: Dump) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = defaultdict(list)
    for entry in sorted(dump, key=lambda e: e.call):
        found[entry.name].append(entry)
    order = dict.fromkeys(entry.name for entry in dump)
    return {name: found[name] for name in order}


@dataclass
class _Work:
    """What is known so far, and the entries of the aligned dumps."""

    reference: Dump
    candidate: Dump
    entries: dict[tuple[str, int], Entry] = field(default_factory=dict)
    narrowed: dict[tuple[str, int], Entry] = field(default_factory=dict)
    changed: bool = False
    joined: Counter = field(default_factory=Counter)  # calls -> stages
    last: list[str] = field(default_factory=list)  # stages with only the last positions
    empty: list[str] = field(default_factory=list)
    split: int = 0
    no_rows: int = 0  # windows without rows
    heads: int = 0  # stages with merged heads
    plans: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)  # letter -> calls

    def __post_init__(self) -> None:
        self.family = str(self.reference.about.get("model_type", "qwen2_5_vl"))
        self.padding = Padding(self.reference, self.candidate)
        self.media = media_in_prompt(self.reference)
        numbers = [int(n) for e in self.reference if (n := _layer_of(e.name))]
        last = f"model.layers.{max(numbers, default=-1)}"
        self.ends = re.compile(
            rf"{re.escape(last)}(\..*)?|model\.norm|lm_head"
        )  # where rows may be left out

    def fits(self, ours: Sequence[Entry], theirs: Sequence[Entry]) -> bool:
        """Whether every call has the shape of the reference's, but for axes of one."""
        calls = {entry.call: entry for entry in ours}
        if theirs[0].call and len(self.plans.get("S", ())) > len(ours):
            return False  # its first calls are missing: those of chunks that left no rows
        known = [(calls[e.call], e) for e in theirs if e.call in calls]
        return all(_plain(a.shape) == _plain(b.shape) for a, b in known)

    def keep(self, calls: Iterable[Entry]) -> None:
        """Keep the calls unchanged."""
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
        if not filled:
            return
        if name in BOUNDS:
            filled = [self._without_empty(e) for e in filled]
            if self.fits(ours, filled):
                self.keep(filled)
                return
        axes = about(name, self.family).axes
        letter = next((a for a in axes if a in ROWS), None)
        if letter is None or len(axes) != len(ours[0].shape):
            self.keep(filled)
            return
        axis = axes.index(letter)
        found = [as_rows(e, ours[0].shape, axis) for e in filled]
        rows = [r for r in found if r is not None]
        if len(rows) < len(found) or not rows:  # another hidden size: a shape verdict
            self.keep(filled)
            return
        groups = self._groups(name, letter, ours, rows, len(theirs))
        if groups is None:
            self.keep(filled)
            return
        self.changed = True
        self._write(name, ours, groups)

    def _without_empty(self, bounds: Entry) -> Entry:
        """Boundaries without empty windows (the same boundary twice), which some runtimes keep."""
        array = np.reshape(bounds.read(), -1)
        kept = array[np.append(True, np.diff(array) != 0)]
        if len(kept) == len(array):
            return bounds
        self.changed = True
        self.no_rows += len(array) - len(kept)
        return replace(bounds, shape=kept.shape, load=One(kept))

    def _groups(
        self, name: str, letter: str, ours: Sequence[Entry], rows: list[Rows], given: int
    ) -> Groups | None:
        """Which candidate rows make up which call of the reference; None if they do not fit."""
        axis = rows[0].axis
        wanted = [e.shape[axis] for e in ours]
        if name in BOUNDS:  # each call begins with a 0
            groups = spread([r.count - 1 for r in rows], [n - 1 for n in wanted])
            if groups is None:
                groups = groups_by_medium([r.count for r in rows], self.media, None)
            return self._picked_media(rows, groups)
        groups = spread([r.count for r in rows], wanted)
        if groups is not None:
            self._plan(letter, groups, [r.count for r in rows])
            return picked(rows, groups)
        if letter in ("N", "M"):
            counts, unit = [r.count for r in rows], 4 if letter == "M" else 1
            if (by_medium := groups_by_medium(counts, self.media, unit)) is not None:
                return self._picked_media(rows, by_medium)
        if letter == "K" and (cached := caches(rows, wanted)):
            return cached
        if (unpadded := self.padding.left_out(name, letter, ours, rows)) is not None:
            return picked(unpadded, spread([r.count for r in unpadded], wanted))
        if not self.ends.fullmatch(name):
            return None
        return self._last_rows(name, letter, rows, wanted, given)

    def _picked_media(self, rows: list[Rows], groups: list[list[int]] | None) -> Groups | None:
        """Groups in any order of the calls: every row is in one of them."""
        if groups is None or sum(map(len, groups)) < len(rows):
            return picked(rows, groups)
        return [([rows[i] for i in group], None) for group in groups]

    def _plan(self, letter: str, groups: list[list[int]], rows: list[int]) -> None:
        """Remember how the candidate splits the prompt: for each call (reference's call, rows)."""
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
    ) -> Groups | None:
        """Only the last rows of each call, if a runtime computes only the logits it needs."""
        whole = [(call, 0, count) for call, count in enumerate(wanted)]
        plan = self.plans.get("S" if letter == "K" else letter, whole)
        plan = plan if len(plan) >= len(rows) else whole
        if len(rows) > len(plan) or given > len(plan):
            return None
        # Calls without output leave nothing, so the rows given belong to the last of each group.
        ends = [p for i, p in enumerate(plan) if i + 1 == len(plan) or plan[i + 1][0] != p[0]]
        plan = plan if len(rows) == len(plan) else ends[: len(rows)]
        if len(plan) < len(rows):
            return None
        groups: Groups = [([], ()) for _ in wanted]
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
        groups: Groups,
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
            entry = replace(first.entry, call=call, shape=shape, load=Joined(name, tuple(parts)))
            self.entries[name, call] = entry
            if at is not None and call < len(ours):
                self.narrowed[name, call] = narrowed(ours[call], axis, at)

    def _generated(self, theirs: Sequence[Entry]) -> None:
        """Split one array of all generated ids into one call per id."""
        if len(theirs) != 1 or len(_plain(theirs[0].shape)) > 1:
            self.keep(theirs)
            return
        ids = np.reshape(theirs[0].read(), -1)
        self.changed, self.split = True, len(ids)
        for call in range(len(ids)):
            part = replace(theirs[0], call=call, shape=(1,), load=One(ids[call : call + 1]))
            self.entries["generated", call] = part

    def told(self) -> list[str]:
        """What was done, one line each."""
        lines = [
            f"{calls} calls joined into one in {_stages(count)}"
            for calls, count in sorted(self.joined.items(), reverse=True)
            if calls > 1
        ]
        lines += self.padding.told()
        if self.last:
            some = ", ".join(self.last[:3]) + (", ..." if len(self.last) > 3 else "")
            lines.append(f"only the last positions compared in {_stages(len(self.last))} ({some})")
        if self.no_rows:
            lines.append(f"{self.no_rows} empty windows left out of the boundaries")
        if self.heads:
            lines.append(f"merged heads in {_stages(self.heads)}: read as [heads, tokens, d]")
        if self.empty:
            some = ", ".join(self.empty[:3]) + (", ..." if len(self.empty) > 3 else "")
            lines.append(f"empty tensors left out in {_stages(len(self.empty))} ({some})")
        if self.split:
            lines.append(f"generated: {self.split} ids in one array, read as one id per step")
        return lines


def _layer_of(name: str) -> str:
    """The number of the decoder layer that a stage belongs to, or ""."""
    return name.split(".")[2] if re.match(r"model\.layers\.\d{1,6}(\.|$)", name) else ""


def _stages(count: int) -> str:
    return f"{count} stage" + "s" * (count != 1)


def _plain(shape: tuple[int, ...]) -> list[int]:
    return [n for n in shape if n != 1]


def same_tokens(reference: Dump, candidate: Dump) -> Dump:
    """The candidate up to the first step whose token differs from the reference's.

    If rounding decides the argmax, the later steps belong to another text.
    """
    for entry in reference:
        theirs = candidate.get("generated", entry.call) if entry.name == "generated" else None
        if theirs is None or np.array_equal(np.reshape(theirs.read(), -1), entry.read()):
            continue
        later = [
            key
            for key in candidate.entries
            if key[1] > entry.call and key[0].startswith(("model.", "lm_head", "generated"))
        ]
        if not later:
            return candidate
        kept = {key: e for key, e in candidate.entries.items() if key not in set(later)}
        note = f"{entry.key} is a different token: later steps are not compared"
        return replace(candidate, entries=kept, notes=[*candidate.notes, note])
    return candidate


def unmatched(reference: Dump, candidate: Dump, name: str) -> bool:
    """Whether a stage has other rows than the reference although all integers agree.

    No injected bug changes only the number of rows, so there is nothing to search for.
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
