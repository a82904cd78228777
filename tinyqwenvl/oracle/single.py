"""Each stage on its own: our result on the candidate's inputs, compared with its output."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..model import Model
from ..tracing import watching
from .align import align
from .dataflow import carries_all, depends, summands
from .diff import AFTER, Comparison, Verdict, comparison_of, fit, in_order, judge, precision_for
from .dump import Dump, Entry
from .record import EveryCall, following, like, run
from .tolerance import Limits, added, band


def single(
    model: Model,
    reference: Dump,
    candidate: Dump,
    precision: str | None = None,
    multiple: float | None = None,
) -> Comparison:
    """Each stage on its own: our result on the candidate's inputs, compared with its output.

    The model runs the reference's prompt, but continues after every stage with the candidate's
    tensors, integers too. This separates a stage that is wrong from one that inherits an upstream
    error. Ours run for stages that the candidate lacks; their noise is added to the tolerance of
    every stage computed from them.
    """
    reference, candidate = align(reference, candidate)
    precision = precision_for(reference, candidate, precision)
    watch = _Steer(reference, candidate, precision, multiple)
    job = following(reference, candidate, model.config)
    with watching(watch), np.errstate(all="ignore"):
        run(model, job)
    verdicts = []
    for entry in in_order(reference):
        kind = "exact" if entry.exact else "float"
        missing = Verdict(entry.key, "missing", kind, entry.info["sequence"], entry.shape)
        verdict = watch.verdicts.get(entry.key, missing)
        verdict = replace(verdict, sequence=entry.info["sequence"])
        verdicts.append(_with_parts(verdict, entry, candidate))
    return comparison_of(reference, candidate, precision, verdicts)


def _with_parts(verdict: Verdict, entry: Entry, candidate: Dump) -> Verdict:
    """A wrong residual sum names the stages to add to the dump."""
    absent = [name for name in summands(entry.name) if candidate.get(name, entry.call) is None]
    if not verdict.bad or not absent:
        return verdict
    note = f"a residual sum: add {' and '.join(absent)} to the dump to see which part is wrong"
    return replace(verdict, note=f"{verdict.note}; {note}" if verdict.note else note)


class _Steer(EveryCall):
    """Judges each stage and then replaces it with the candidate's."""

    def __init__(self, reference: Dump, candidate: Dump, precision: str, multiple: float | None):
        super().__init__()
        self.reference, self.candidate = reference, candidate
        self.precision, self.multiple = precision, multiple
        self.verdicts: dict[str, Verdict] = {}
        self.ours: dict[str, Limits] = {}  # stages that the candidate does not hold: their noise

    def observe(self, name: str, call: int, value: Any) -> Any:
        """Judge a stage."""
        ours, theirs = self.reference.get(name, call), self.candidate.get(name, call)
        if ours is None:
            return None
        value_here = ours.of(np.asarray(value))
        limits = None
        if not ours.exact:
            own = band(ours, self.precision, "single", self.multiple, self.reference)
            limits = added([own, *(far for n, far in self.ours.items() if depends(name, n))])
        if theirs is None:
            if limits is not None:
                self.ours[name] = own
            return None
        self.verdicts[ours.key] = self._judge(ours, theirs, limits, value_here)
        given = theirs.read()
        if fit(theirs, ours.shape)[0] == ours.shape:
            given = np.reshape(given, ours.shape)
        elif not name.endswith("seqlens"):  # there may be another number of windows
            return None
        if ours.exact and not _can_be_used(name, given, value_here):
            return None
        self.ours = {n: far for n, far in self.ours.items() if not carries_all(name, n)}
        self.ours.pop(name, None)  # of an earlier call
        return like(ours.put(value, given), value)

    def _judge(self, ours: Entry, theirs: Entry, limits: Limits | None, value: Any) -> Verdict:
        """Integers are correct if equal to the reference's, or derived from the candidate's own."""
        if not ours.exact or ours.name in AFTER:
            return judge(ours, theirs, self.precision, limits, value)
        verdict = judge(ours, theirs, self.precision)
        if verdict.bad and value.shape == ours.shape:
            follows = judge(ours, theirs, self.precision, expected=value)
            verdict = verdict if follows.bad else follows
        return verdict


def _can_be_used(name: str, given: np.ndarray, right: np.ndarray) -> bool:
    """Whether our stages can run on a candidate's integers: wrong ones must not break the run."""
    last = name.rpartition(".")[2]
    if given.dtype.kind not in "iu" or given.ndim != right.ndim:
        return False
    if last == "position_ids":
        return bool(np.all(np.abs(given) < 2**31))
    if last == "window_index":
        return bool(np.array_equal(np.sort(given), np.arange(len(right))))
    if last in ("cu_seqlens", "cu_window_seqlens"):
        ends = len(given) > 0 and given[0] == 0 and given[-1] == right[-1]
        return bool(ends and np.all(np.diff(given) >= 0))
    if last == "key_ranges":
        start, end = given[:, 0], given[:, 1]
        return bool(np.all((start >= 0) & (start < end) & (end <= np.max(right))))
    return name in ("image.rgb", "image.resize")
