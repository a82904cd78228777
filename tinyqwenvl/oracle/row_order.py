"""The patch order in a candidate's vision encoder: detected once, undone in all stages.

Patches are in merge order before the blocks and, in Qwen2.5-VL, in window order inside them. A
runtime may keep raster order, or the merge order for the whole encoder with masks instead of a
permutation. Such a port is correct; its bugs are judged on matching patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from .dump import Dump, Entry, geometry
from .stages import about

GOOD = 1e-3  # NMSE below which rows count as in order
SURE = 0.25  # another order must be closer than this part of the distance as given, and than this
TRIED = 6  # stages on which an order is detected
SKIPPED = ("visual", "visual.rotary_angles")  # undone, or faulty, on their own


class Found(NamedTuple):
    """The order of a part of the encoder: the reference's and the candidate's."""

    part: str
    expected: str
    given: str


def undone(reference: Dump, candidate: Dump) -> Dump | None:
    """The candidate with its vision encoder in the reference's patch order; None: it is already.

    Both are aligned (:func:`tinyqwenvl.oracle.align.align`). The notes report it.
    """
    family = str(reference.about.get("model_type", "qwen2_5_vl"))
    parts: dict[tuple[str, str], list[Entry]] = {}
    for entry in reference:
        axes, order = about(entry.name, family)
        letter = next((a for a in axes if a in ("N", "M")), "")
        vision = entry.name.startswith(("visual", "pixel_values"))
        if not (vision and letter and order) or entry.exact or entry.name in SKIPPED:
            continue
        before = entry.name.startswith(("pixel_values", "visual.patch_embed"))
        part = "patches" if before else "blocks" if letter == "N" else "merger"
        parts.setdefault((part, order), []).append(entry)
    entries, found = dict(candidate.entries), []
    for (part, order), stages in parts.items():
        there = [e for e in stages if candidate.get(e.name, e.call) is not None]
        given = next((y for e in there[:TRIED] if (y := _order_of(e, reference, candidate))), None)
        if given is None or given == order:
            continue
        found.append(Found(part, order, given))
        for entry in there:
            theirs = candidate.get(entry.name, entry.call)
            assert theirs is not None
            index = orders(entry, reference).get(given)
            if index is not None and _size(theirs) == _size(entry):
                load = _Ordered(theirs, entry.shape, _axis(entry, family), np.argsort(index))
                entries[theirs.name, theirs.call] = replace(theirs, shape=entry.shape, load=load)
    if not found:
        return None
    again = Dump(candidate.source, entries, candidate.about, candidate.inputs)
    words = [f"{part} in {given} order instead of {expected}" for part, expected, given in found]
    again.notes = [
        *candidate.notes,
        f"patches reordered in the vision encoder: {', '.join(words)}",
    ]
    return again


def _size(entry: Entry) -> int:
    return int(np.prod(entry.shape))


def _axis(entry: Entry, family: str) -> int:
    axes = about(entry.name, family).axes
    return next(i for i, a in enumerate(axes) if a in ("N", "M"))


def _order_of(entry: Entry, reference: Dump, candidate: Dump) -> str | None:
    """The order in which a stage's rows agree with the reference's; None if it shows none."""
    theirs = candidate.get(entry.name, entry.call)
    if theirs is None or _size(theirs) != _size(entry) or "rows" in entry.info:
        return None
    family = str(reference.about.get("model_type", "qwen2_5_vl"))
    order, axis = about(entry.name, family).order, _axis(entry, family)
    ours, array = entry.read(), np.reshape(theirs.read(), entry.shape)
    as_given = _nmse(array, ours)
    if as_given <= GOOD:
        return order
    others = orders(entry, reference)
    far = {y: _nmse(array, np.take(ours, index, axis=axis)) for y, index in others.items()}
    best = min(far, key=lambda y: far[y], default=None)
    return best if best is not None and far[best] < SURE * min(as_given, 1) else None


def _nmse(array: np.ndarray, ours: np.ndarray) -> float:
    with np.errstate(all="ignore"):
        off = float(np.sum(np.square(array - ours), dtype=np.float64))
    whole = float(np.sum(np.square(ours), dtype=np.float64))
    return off / max(whole, 1e-30) if np.isfinite(off) else float("inf")


def orders(entry: Entry, reference: Dump) -> Mapping[str, np.ndarray]:
    """Order -> the reference's row at each position."""
    family = str(reference.about.get("model_type", "qwen2_5_vl"))
    axes, order = about(entry.name, family)
    grids, window = geometry(entry, reference)
    if grids is None or np.any(grids % (1, 2, 2)):
        return {}
    patches, rows = "N" in axes, entry.shape[_axis(entry, family)]
    if rows * (1 if patches else 4) != int(np.sum(np.prod(grids, axis=1))):
        return {}
    merge = np.arange(rows)
    known = {"merge": merge, "raster": raster(grids) if patches else merge}
    if window is not None and len(window) * (4 if patches else 1) == rows:
        group = np.arange(4 if patches else 1)
        known["window"] = np.reshape(window[:, None] * len(group) + group, -1)
    if order not in known:
        return {}
    back = np.argsort(known[order])  # merge order -> index in ours
    found = {name: back[index] for name, index in known.items() if name != order}
    return {name: index for name, index in found.items() if not np.array_equal(index, merge)}


def raster(grids: np.ndarray) -> np.ndarray:
    """The merge-order patch at each position of raster order; ``grids`` [I, 3]."""
    parts, start = [], 0
    for t, h, w in grids.tolist():
        merged = np.reshape(np.arange(t * h * w), (t, h // 2, w // 2, 2, 2))
        parts.append(start + np.reshape(np.transpose(merged, (0, 1, 3, 2, 4)), -1))
        start += t * h * w
    return np.concatenate(parts)


@dataclass(frozen=True)
class _Ordered:
    entry: Entry
    shape: tuple[int, ...]
    axis: int
    index: np.ndarray

    def __call__(self) -> np.ndarray:
        array = np.reshape(self.entry.read(), self.shape)
        return np.take(array, self.index, axis=self.axis)
