"""Naming the bug: which one, injected into our own model, gives what the candidate holds.

Every mutant is run on the reference's prompt and followed stage by stage until it diverges from the
candidate. One that diverges before the first wrong stage, or there, explains nothing; the further
it goes beyond, the better it explains. Layouts (rows or values in another order) are tried on the
tensor itself and need no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from ..model import Model
from ..tracing import watching
from .bug_runs import BugRuns
from .diff import BANDS, Comparison, band, fit, within
from .dump import Dump, Entry, geometry
from .metrics import distance
from .mutants import MUTANTS, apply
from .record import EveryCall, Job, following, run
from .vectors import Case, answer_to, equal, unit_cases
from .vectors import judge as judge_answer

MOST_STAGES = 200  # that a layout is tried on


def explain(
    comparison: Comparison,
    model: Model | None = None,
    most: int = 5,
    runs: BugRuns | None = None,
) -> list[dict[str, Any]]:
    """[{"mutant": name, "score": 0 .. 1, "what": one line, "report": where it was seen}].

    Best first, none that explains nothing. ``score`` is the share of the candidate's stages, from
    the first wrong one on, that the bug reproduces before it diverges from them. ``runs`` are those
    of the model on the reference's prompt, where many candidates are explained.
    """
    if comparison.first is None:
        return []
    found = [] if model is None else _mutants(comparison, model, runs)
    found += [
        {"mutant": f"layout: {name}", "score": round(score, 4), "what": name, "report": ""}
        for name, score in _layouts(comparison)
    ]
    return sorted(found, key=lambda line: -line["score"])[:most]


# ------------------------------------------------------------------ mutants


def _mutants(comparison: Comparison, model: Model, runs: BugRuns | None) -> list[dict[str, Any]]:
    job = following(comparison.reference, comparison.candidate, model.config)
    replay = _Replay(comparison, runs) if runs else None
    scored: list[tuple[float, float, dict[str, Any]]] = []
    right = _follow(comparison, model, job, None, replay).reproduced  # without any bug
    for name, mutant in MUTANTS.items():
        follow = _follow(comparison, model, job, name, replay)
        if follow.reproduced > right:
            score = follow.reproduced / max(follow.to_reproduce, 1)
            line = {"mutant": name, "score": round(score, 4), "what": mutant.what}
            scored.append((-score, follow.error, line | {"report": mutant.report}))
    return [line for *_, line in sorted(scored, key=lambda item: item[:2])]


class _Diverged(Exception):
    """A mutant has diverged from the candidate: no need to run it to its end."""


def _follow(
    comparison: Comparison, model: Model, job: Job, name: str | None, replay: _Replay | None
) -> _Follow:
    """How far the model with a bug gives what the candidate holds."""
    if replay is not None:
        follow, goes_on = replay.follow(name)
        if not (goes_on and job.tokens):
            return follow
    follow = _Follow(comparison)
    # A bug may break the run, or diverge; what was reproduced until then counts.
    with suppress(Exception), apply(name), watching(follow), np.errstate(all="ignore"):
        run(model, job)
    return follow


class _Follow(EveryCall):
    """Counts how far a mutant gives what the candidate holds."""

    def __init__(self, comparison: Comparison):
        super().__init__()
        self.candidate, self.precision = comparison.candidate, comparison.precision
        self.reference = comparison.reference
        first = comparison.first
        assert first is not None
        self.first = first.name
        self.to_reproduce = sum(v.sequence >= first.sequence for v in comparison.compared)
        self.begun, self.reproduced, self.error = False, 0, 0.0

    def observe(self, name: str, call: int, value: Any) -> None:
        """Compare a stage."""
        theirs, ours = self.candidate.get(name, call), self.reference.get(name, call)
        if theirs is not None and ours is not None:
            self.count(theirs.key, *_near(np.asarray(value), theirs, ours, self.precision))

    def count(self, key: str, near: bool, error: float) -> None:
        """Take in how near a stage is. Raises _Diverged when it is not near enough."""
        self.begun = self.begun or key == self.first
        if not near:
            raise _Diverged
        if self.begun:
            self.reproduced += 1
            self.error += error


class _Replay:
    """Follows recorded runs; an array that several of them share is compared once."""

    def __init__(self, comparison: Comparison, runs: BugRuns):
        self.comparison, self.runs = comparison, runs
        self.known: dict[tuple[str, int, int], tuple[bool, float]] = {}  # name, call, id of array

    def follow(self, mutant: str | None) -> tuple[_Follow, bool]:
        """How far a recorded run gives what the candidate holds; whether it does to its end."""
        follow, recorded = _Follow(self.comparison), self.runs.of(mutant)
        try:
            with np.errstate(all="ignore"):
                for name, call, value in recorded.stages:
                    self._stage(follow, name, call, value)
        except Exception:  # it diverges, or cannot be compared: what was reproduced counts
            return follow, False
        return follow, recorded.error is None

    def _stage(self, follow: _Follow, name: str, call: int, value: np.ndarray) -> None:
        theirs = self.comparison.candidate.get(name, call)
        ours = self.comparison.reference.get(name, call)
        if theirs is None or ours is None:
            return
        known = (name, call, id(value))  # the runs keep the array alive
        if known not in self.known:
            self.known[known] = _near(value, theirs, ours, follow.precision)
        follow.count(theirs.key, *self.known[known])


def _near(value: np.ndarray, theirs: Entry, ours: Entry, precision: str) -> tuple[bool, float]:
    """Whether a mutant's stage is the candidate's, and how far they are apart."""
    value = ours.of(value)
    if fit(theirs, value.shape)[0] != value.shape:
        return False, 0.0
    array = np.reshape(theirs.read(), value.shape)
    if ours.exact:
        return bool(np.array_equal(array, value)), 0.0
    far = distance(array, value.astype(array.dtype, copy=False))
    limits = band(ours, precision) if ours.shape == value.shape else BANDS[precision]
    return within(far, limits) and not far.not_finite, min(far.nmse, 1.0)


# ------------------------------------------------------------------ answers to unit vectors


def answers_with(mutant: str, cases: Sequence[Case]) -> dict[str, Any]:
    """Our answers to unit cases with a bug: {case id: output or an exception}."""
    with apply(mutant):
        return {case["id"]: answer_to(case) for case in cases}


def explain_answers(
    answers: Mapping[str, Any],
    most: int = 5,
    answers_of: Callable[[str, Sequence[Case]], Mapping[str, Any]] = answers_with,
) -> list[dict[str, Any]]:
    """Which mutants would give these answers to unit cases: {case id: output or an exception}.

    As :func:`explain`; ``score`` is the share of the answers that the mutant gives too. One that
    gives none of the wrong ones explains nothing. ``answers_of(mutant, cases)`` finds its answers.
    """
    cases = [case for case in unit_cases() if case["id"] in answers]
    wrong = [case["id"] for case in cases if not judge_answer(case, answers[case["id"]])]
    found: list[dict[str, Any]] = []
    for name, mutant in MUTANTS.items():
        ours = answers_of(name, cases)
        same = {case["id"]: _same(ours[case["id"]], answers[case["id"]]) for case in cases}
        if any(same[case] for case in wrong):
            score = round(sum(same.values()) / len(cases), 4)
            line = {"mutant": name, "score": score, "what": mutant.what, "report": mutant.report}
            found.append(line)
    return sorted(found, key=lambda line: -line["score"])[:most]


def _same(ours: Any, theirs: Any) -> bool:
    """The same output, or a refusal both times."""
    if isinstance(ours, Exception) or isinstance(theirs, Exception):
        return isinstance(ours, Exception) and isinstance(theirs, Exception)
    return equal(ours, theirs)


# ------------------------------------------------------------------ layouts


def _layouts(comparison: Comparison) -> Iterator[tuple[str, float]]:
    """Layouts of the first wrong stage, each with the share of stages that it makes right."""
    first = comparison.first
    assert first is not None
    entries = {e.key: e for e in comparison.reference}
    later = [v for v in comparison.compared if v.sequence >= first.sequence][:MOST_STAGES]
    for name in layouts_that_fit(comparison, entries[first.name]):
        right = [not v.bad or name in layouts_that_fit(comparison, entries[v.name]) for v in later]
        yield name, sum(right) / len(right)


def layouts_that_fit(comparison: Comparison, entry: Entry) -> list[str]:
    """Orders of one stage in which the candidate is the reference after all."""
    theirs = comparison.candidate.get(entry.name, entry.call)
    if theirs is None or math.prod(theirs.shape) != math.prod(entry.shape):
        return []
    ours, array = entry.read(), np.squeeze(theirs.read())
    found = []
    for name, other in layouts(entry, ours, comparison.reference):
        other = np.squeeze(other)
        if other.shape == array.shape and not np.array_equal(other, np.squeeze(ours)):
            limits = (0.0, 0.0, 0.0) if entry.exact else band(entry, comparison.precision)
            if within(distance(array, other.astype(array.dtype, copy=False)), limits):
                found.append(name)
    return found


def layouts(entry: Entry, x: np.ndarray, reference: Dump) -> Iterator[tuple[str, np.ndarray]]:
    """(what it is, the reference's tensor in that order), for every order worth trying."""
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
        yield "rotary pairs side by side (interleaved), not half a head apart", paired
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
