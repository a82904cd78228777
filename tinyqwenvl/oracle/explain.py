"""Name the bug: which one, injected into our own model, reproduces the candidate.

Every mutant is run on the reference's prompt and followed stage by stage until it diverges from the
candidate. A bug that reproduces no wrong stage explains nothing; the more it reproduces, the
better. If the best one reproduces only some, the search continues with it applied: the
candidate may have a second bug. Layouts (rows or values in another order) are tried on the tensor
itself (:mod:`.layouts`) and need no model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from ..model import Model
from ..tracing import watching
from .bug_runs import BugRuns, Memo, part_of, parts_of, shown_by
from .diff import Comparison, fit
from .dump import Entry, key_of
from .layouts import explained_by_layouts
from .metrics import distance
from .mutants import MUTANTS, apply, of_the_prompt
from .record import EveryCall, Job, following, run
from .tolerance import BANDS, band, within
from .vectors import Case, answer_to, equal, unit_cases
from .vectors import judge as judge_answer

AFTER_VISION = (
    "model.inputs_embeds", "model.position_ids", "model.layers", "model.norm", "lm_head",
    "generated",
)  # fmt: skip
FAULTS = 3  # bugs in one candidate, searched one after another


def explain(
    comparison: Comparison,
    model: Model | None = None,
    most: int = 5,
    runs: BugRuns | None = None,
    faults: int = FAULTS,
) -> list[dict[str, Any]]:
    """[{"mutant": name, "score": 0 .. 1, "what": one line, "report": where it was seen}].

    Best first, without those that explain nothing. ``score`` is the share of the candidate's
    stages, from the first wrong one on, that the bug reproduces before it diverges. After the best
    bug come those that explain what it leaves (up to ``faults`` in all), with the earlier ones in
    ``with``. ``runs`` are those of the model on the reference's prompt, where many candidates are
    explained. What was tried is noted in the comparison.
    """
    if comparison.first is None:
        return []
    found, tried = [], []
    if model is not None:
        names = _worth_trying(comparison, model)
        tried.append(f"{len(names)} of {len(MUTANTS)} bugs" if names else "no bug gives this shape")
        found = _mutants(comparison, model, runs, names, faults)
    tried.append("other orders of rows and values")
    comparison.searched = ", ".join(tried)
    found += explained_by_layouts(comparison)
    first, then = found[:1], [line for line in found if line.get("with")]
    others = sorted((x for x in found if x not in first + then), key=lambda line: -line["score"])
    if others and first and others[0]["score"] > first[0]["score"]:
        first, then, others = others[:1], [], [*first, *others[1:]]  # a layout is better
    return [*first, *then, *others][:most]


def _worth_trying(comparison: Comparison, model: Model) -> list[str]:
    """The bugs that could give the shape of the first wrong stage.

    If it differs from ours, only a bug that changes the shape of the prompt can, or of the window
    boundaries.
    """
    first = comparison.first
    if first is None or first.verdict != "shape" or first.name.startswith("visual.cu_"):
        return list(MUTANTS)
    job = following(comparison.reference, comparison.candidate, model.config)
    entry = next(e for e in comparison.reference if e.key == first.name)
    theirs = comparison.candidate.get(entry.name, entry.call)
    shape = theirs.shape if theirs is not None else ()
    rows = set(shape if entry.name.startswith("image.") else shape[-2:])
    right = _sizes(model, job, None)
    return [n for n in of_the_prompt() if (_sizes(model, job, n) - right) & rows]


def _sizes(model: Model, job: Job, mutant: str | None) -> set[int]:
    """Row counts that a prompt gives its stages: tokens, patches, sides of images."""
    with suppress(Exception), apply(mutant):
        inputs, merged = job.inputs(model), model.config.vision.merged_patches
        found = {len(inputs.input_ids)}
        for grids in (inputs.image_grid_thw, inputs.video_grid_thw):
            if grids is not None:
                patches, side = int(np.sum(np.prod(grids, axis=1))), model.config.vision.patch_size
                found |= {patches, patches // merged}
                found |= {side * int(n) for n in np.reshape(grids[:, 1:], -1)}
        return found
    return set()  # the bug breaks it


# ------------------------------------------------------------------ mutants


def _mutants(
    comparison: Comparison,
    model: Model,
    runs: BugRuns | None,
    names: Sequence[str],
    faults: int,
) -> list[dict[str, Any]]:
    """The bugs that explain something; those for the remaining stages follow the best."""
    if not names:
        return []
    job = following(comparison.reference, comparison.candidate, model.config)
    search = _Search(comparison, model, job, runs)
    found = search.best(names, ())
    before: tuple[str, ...] = ()
    further: list[dict[str, Any]] = []
    last = found[0] if found else None
    while last and last["score"] < 1 and len(before) + 1 < faults:
        before += (last["mutant"],)
        next_ones = search.best([n for n in names if n not in before], before)
        last = next_ones[0] if next_ones and next_ones[0]["score"] > last["score"] else None
        further += [last] if last else []
    return [*found[:1], *further, *found[1:]]


class _Search:
    """Follows bugs, alone or together, against one candidate."""

    def __init__(self, comparison: Comparison, model: Model, job: Job, runs: BugRuns | None):
        self.comparison, self.model, self.job = comparison, model, job
        self.replay = _Replay(comparison, runs) if runs else None
        shown = runs.shown if runs else shown_by(model, job)
        self.stages = _Stages(comparison, shown)

    def best(self, names: Sequence[str], before: tuple[str, ...]) -> list[dict[str, Any]]:
        """A line for each bug that explains something, best first; ``before`` are applied too."""
        scored: list[tuple[float, float, dict[str, Any]]] = []
        base = self._follow(before, None)
        vision = Memo(self.model.image_features)
        for name in names:
            if self._is_idle(name, base.diverged):
                continue
            only_text = base.diverged.startswith(AFTER_VISION) and parts_of(name) == {"text"}
            follow = self._follow((*before, name), base if only_text else None, vision)
            more = len(follow.reproduced) > len(base.reproduced)
            if more and follow.reproduced & self.stages.wrong:
                score = len(follow.reproduced) / max(len(self.stages.counted), 1)
                line = {"mutant": name, "score": round(score, 4), "what": MUTANTS[name].what}
                line |= {"report": MUTANTS[name].report}
                line |= {"with": ", ".join(before)} if before else {}
                scored.append((-score, follow.error, line))
        return [line for *_, line in sorted(scored, key=lambda item: item[:2])]

    def _is_idle(self, name: str, diverged: str) -> bool:
        """Whether a bug cannot change the stage at which the run without it diverges."""
        parts, where = parts_of(name), part_of(diverged)
        if not diverged:
            return False
        if where == "text":
            held = {v.name for v in self.comparison.compared if not v.bad}
            return parts == {"vision"} and bool(held & {"visual", "model.inputs_embeds"})
        return parts == {"text"} or (where == "prompt" and "prompt" not in parts)

    def _follow(
        self, names: tuple[str, ...], base: _Follow | None, vision: Memo | None = None
    ) -> _Follow:
        """How far the model with these bugs reproduces the candidate.

        With a ``base`` that passed the vision encoder, only the decoder is run again.
        """
        if self.replay is not None and len(names) < 2:
            follow, goes_on = self.replay.follow(names[0] if names else None, self.stages)
            if not (goes_on and self.job.tokens):
                return follow
        follow, model = _Follow(self.comparison, self.stages), self.model
        if base is not None and vision is not None:
            follow.known = {key for key in base.reproduced if part_of(key) == "vision"}
            model = vision.on(model)
        # A bug may break the run, or diverge; what was reproduced until then counts.
        with suppress(Exception), apply(*names), watching(follow), np.errstate(all="ignore"):
            run(model, self.job)
        follow.reproduced |= follow.known
        return follow


class _Stages:
    """Which stages of a candidate count."""

    def __init__(self, comparison: Comparison, shown: set[tuple[str, int]]):
        compared = comparison.compared
        self.wrong = {v.name for v in compared if v.bad}
        start = min(v.sequence for v in compared if v.bad)
        keys = {key_of(*stage) for stage in shown}
        self.skipped = {v.name for v in compared if v.verdict == "not that stage"}
        later = {v.name for v in compared if v.sequence >= start}
        self.counted = (later & keys) - self.skipped


class _Diverged(Exception):
    """A mutant has diverged from the candidate, so the rest of its run is not needed."""


class _Follow(EveryCall):
    """Counts how far a mutant reproduces the candidate."""

    def __init__(self, comparison: Comparison, stages: _Stages):
        super().__init__()
        self.comparison, self.stages = comparison, stages
        self.reproduced: set[str] = set()  # of the stages that count
        self.known: set[str] = set()  # those that need not be run again
        self.diverged = ""  # where
        self.error = 0.0

    def observe(self, name: str, call: int, value: Any) -> None:
        """Compare a stage."""
        theirs = self.comparison.candidate.get(name, call)
        ours = self.comparison.reference.get(name, call)
        if theirs is not None and ours is not None:
            near = _near(np.asarray(value), theirs, ours, self.comparison)
            self.count(theirs.key, *near)

    def count(self, key: str, near: bool, error: float) -> None:
        """Record a stage's distance. Raises _Diverged if it exceeds the tolerance."""
        if key in self.stages.skipped:
            return
        if not near:
            self.diverged = key
            raise _Diverged
        if key in self.stages.counted:
            self.reproduced.add(key)
            self.error += error


class _Replay:
    """Follows recorded runs; an array that several of them share is compared once."""

    def __init__(self, comparison: Comparison, runs: BugRuns):
        self.comparison, self.runs = comparison, runs
        self.known: dict[tuple[str, int, int], tuple[bool, float]] = {}  # name, call, id of array

    def follow(self, mutant: str | None, stages: _Stages) -> tuple[_Follow, bool]:
        """How far a recorded run reproduces the candidate; whether it does so to the end."""
        follow, recorded = _Follow(self.comparison, stages), self.runs.of(mutant)
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
            self.known[known] = _near(value, theirs, ours, self.comparison)
        follow.count(theirs.key, *self.known[known])


def _near(
    value: np.ndarray, theirs: Entry, ours: Entry, comparison: Comparison
) -> tuple[bool, float]:
    """Whether a mutant's stage is the candidate's, and how far they are apart."""
    value = ours.of(value)
    if fit(theirs, value.shape)[0] != value.shape:
        return False, 0.0
    array = np.reshape(theirs.read(), value.shape)
    if ours.exact:
        return bool(np.array_equal(array, value)), 0.0
    far = distance(array, value.astype(array.dtype, copy=False))
    limits = BANDS[comparison.precision]
    if ours.shape == value.shape:
        limits = band(ours, comparison.precision, reference=comparison.reference)
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
    """Which mutants give these answers to unit cases: {case id: output or an exception}.

    As :func:`explain`; ``score`` is the share of the answers that the mutant reproduces. One that
    reproduces no wrong answer explains nothing. ``answers_of(mutant, cases)`` finds its answers.
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
    """The same output, or an error both times."""
    if isinstance(ours, Exception) or isinstance(theirs, Exception):
        return isinstance(ours, Exception) and isinstance(theirs, Exception)
    return equal(ours, theirs)
