"""Compare two dumps: one verdict per stage, and the first stage that differs.

Integers and geometry come first and must be equal. Floating-point stages are judged by three
distances (NMSE, cosine of the worst row, largest error). The tolerance of each is a multiple of the
stage's noise floor, the error that rounding alone causes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import UserError
from .align import align, same_tokens
from .bits import format_of_dump
from .dataflow import depends
from .dump import Dump, Entry
from .metrics import Distance, distance
from .stages import position_in_run
from .tolerance import BANDS, HOPELESS, MULTIPLE, Limits, added, band, within

__all__ = [
    "AFTER", "BAD", "BANDS", "HOPELESS", "MULTIPLE", "Comparison", "Limits", "Verdict", "added",
    "band", "compare", "comparison_of", "fit", "in_order", "judge", "precision_for",
    "precision_of", "within",
]  # fmt: skip

AFTER = ("generated",)  # integers that follow from floating-point numbers
BAD = ("differs", "shape", "not finite")
GROSS = 0.01  # an NMSE that the tolerance of no later stage hides


@dataclass(frozen=True)
class Verdict:
    """The verdict on one stage.

    ``verdict``: "equal" (bit by bit), "agrees" (within its band), "differs", "shape" (of another
    shape), "not finite", "missing" (the candidate does not hold it), "not judged", "not that stage"
    (it differs, but all that depends on it agrees).
    """

    name: str  # with #CALL after the first
    verdict: str
    kind: str  # "exact" or "float"
    sequence: int
    shape: tuple[int, ...]
    distance: Distance | None = None
    band: Limits | None = None
    note: str = ""

    @property
    def bad(self) -> bool:
        """Whether the stage is wrong."""
        return self.verdict in BAD

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        line: dict[str, Any] = {"name": self.name, "verdict": self.verdict, "kind": self.kind}
        line |= {"sequence": self.sequence, "shape": list(self.shape)}
        if self.distance is not None:
            numbers = {**self.distance._asdict(), "cosine": self.distance.cosine}
            line |= {"distance": {n: _finite(v) for n, v in numbers.items()}}
        if self.band is not None:
            names = ("nmse", "cosine_error", "max_error")
            line |= {"band": dict(zip(names, map(_finite, self.band), strict=True))}
        return line | ({"note": self.note} if self.note else {})


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


@dataclass
class Comparison:
    """All verdicts, in the order of the reference."""

    reference: Dump
    candidate: Dump
    precision: str
    verdicts: list[Verdict]
    extra: list[str] = field(default_factory=list)  # stages that only the candidate holds
    notes: list[str] = field(default_factory=list)
    explanation: list[dict[str, Any]] = field(default_factory=list)
    diagnosis: list[dict[str, Any]] = field(default_factory=list)
    searched: str = ""  # in words, which explanations were tried; "" for none

    @property
    def compared(self) -> list[Verdict]:
        """The stages that both dumps hold."""
        return [v for v in self.verdicts if v.verdict != "missing"]

    @property
    def first(self) -> Verdict | None:
        """The first stage that is wrong: integers and geometry first, then floating point."""
        wrong = [v for v in self.compared if v.bad]
        exact = [v for v in wrong if v.kind == "exact" and not v.name.startswith(AFTER)]
        return next(iter(exact or wrong), None)

    @property
    def between(self) -> tuple[str | None, str] | None:
        """(last stage that agrees before the first wrong one, the first wrong one)."""
        if self.first is None:
            return None
        good = [v for v in self.compared if v.verdict in ("equal", "agrees")]
        before = [v for v in good if v.sequence < self.first.sequence]
        floats = [v for v in before if v.kind == self.first.kind]
        return (floats or before)[-1].name if before else None, self.first.name

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        between = list(self.between) if self.between else None
        return {
            "first": self.first.name if self.first else None,
            "between": between,
            "precision": self.precision,
            "compared": len(self.compared),
            "stages": [v.as_json() for v in self.verdicts],
            "explanation": self.explanation,
            "diagnosis": self.diagnosis,
            "extra": self.extra,
            "notes": self.notes,
        }


# ------------------------------------------------------------------ the precision


def precision_of(dump: Dump, reference: Dump | None = None) -> str:
    """The coarsest format in which a dump stores its floating-point stages.

    With a ``reference``, of the stages that it knows.
    """
    stored = set()
    for entry in dump:
        known = entry if reference is None else reference.get(entry.name, entry.call)
        if known is not None and not known.exact:
            stored.add(entry.dtype)
    coarse = [p for p in ("bfloat16", "float16") if p in stored]
    if coarse:
        return coarse[0]
    names = {entry.name for entry in dump if reference is None or reference.get(entry.name)}
    by_bits = format_of_dump(dump, names)
    return by_bits if by_bits in BANDS else "float32"


# ------------------------------------------------------------------ one stage


def fit(entry: Entry, shape: tuple[int, ...]) -> tuple[tuple[int, ...], str]:
    """The candidate's shape without axes of one that the reference does not have, and a note."""
    found = entry.shape
    if found == shape:
        return shape, ""
    if [n for n in found if n != 1] == [n for n in shape if n != 1]:
        return shape, f"given as {list(found)}"
    return found, f"{list(found)} instead of {list(shape)}"


def judge(
    reference: Entry,
    candidate: Entry,
    precision: str,
    limits: Limits | None = None,
    expected: np.ndarray | None = None,
) -> Verdict:
    """One stage of the candidate against the reference's (or against ``expected``).

    ``limits``: None for those of a whole run.
    """
    kind = "exact" if reference.exact else "float"
    sequence = reference.info.get("sequence", 0)
    shape, note = fit(candidate, reference.shape)
    verdict = Verdict(reference.key, "shape", kind, sequence, reference.shape, note=note)
    if shape != reference.shape:
        return verdict
    ours = reference.read() if expected is None else expected
    theirs = np.reshape(candidate.read(), shape)
    if kind == "exact":
        return _judge_exact(verdict, ours, theirs, precision)
    if theirs.dtype.kind not in "fiu":
        return replace(verdict, verdict="differs", note=f"dtype {candidate.dtype}")
    if ours.shape != shape:  # ours, run on what the candidate holds
        note = f"our shape is {list(ours.shape)}; is the candidate from another prompt?"
        return replace(verdict, verdict="shape", note=note)
    far = distance(theirs, ours)
    limits = limits or band(reference, precision)
    word = "agrees" if within(far, limits) else "differs"
    if max(limits[:2]) >= HOPELESS and not far.not_finite and far[:3] != (0, 0, 0):
        word, note = "not judged", f"the rounding noise of {precision} is as large"
    elif far.not_finite:
        word, note = "not finite", f"{far.not_finite} of {theirs.size} are NaN or infinite"
    elif far[:3] == (0, 0, 0):
        word = "equal"
    return replace(verdict, verdict=word, distance=far, band=limits, note=note)


def _judge_exact(verdict: Verdict, ours: Any, theirs: Any, precision: str) -> Verdict:
    differ = np.atleast_1d(ours != theirs)
    wrong = int(np.count_nonzero(differ))
    if not wrong:
        return replace(verdict, verdict="equal")
    ours, theirs = np.atleast_1d(ours), np.atleast_1d(theirs)
    first = tuple(int(i[0]) for i in np.nonzero(differ))
    pair = f"{theirs[first]} for {ours[first]}"
    note = f"{wrong} of {ours.size} differ; first at {list(first)}: {pair}"
    if verdict.name.startswith(AFTER) and precision != "float32":
        return replace(verdict, verdict="not judged", note=f"{note}; rounding may decide it")
    return replace(verdict, verdict="differs", note=note)


# ------------------------------------------------------------------ two dumps


def compare(
    reference: Dump, candidate: Dump, precision: str | None = None, multiple: float | None = None
) -> Comparison:
    """Every stage of the reference that the candidate holds.

    ``precision`` is the format in which the candidate was computed (None: as its tensors are
    stored), ``multiple`` of the noise floor is the tolerance (None: :data:`MULTIPLE`).
    Raises UserError when the two hold no stage in common.
    """
    reference, candidate = align(reference, candidate)
    candidate = same_tokens(reference, candidate)
    precision = precision_for(reference, candidate, precision)
    verdicts = []
    for entry in in_order(reference):
        theirs = candidate.get(entry.name, entry.call)
        if theirs is None:
            kind = "exact" if entry.exact else "float"
            number = entry.info.get("sequence", 0)
            verdicts.append(Verdict(entry.key, "missing", kind, number, entry.shape))
        else:
            limits = band(entry, precision, "entire", multiple, reference)
            verdicts.append(judge(entry, theirs, precision, limits))
    return comparison_of(reference, candidate, precision, _names_checked(verdicts))


def _names_checked(verdicts: list[Verdict]) -> list[Verdict]:
    """The verdicts, with "not that stage" for a large difference on which no later one depends.

    A dependent stage that agrees was computed from correct values, whatever the name holds.
    """
    checked = list(verdicts)
    for i in reversed(range(len(checked))):  # the last ones first: they decide about those before
        if checked[i].bad and _is_gross(checked[i]):
            later = list(_what_depends(checked, checked[i].name))
            if later and not any(v.bad for v in later):
                checked[i] = _not_that_stage(checked[i], later[0].name)
    return checked


def _what_depends(verdicts: list[Verdict], key: str) -> Iterator[Verdict]:
    """The judged floating-point stages, of the same call, that depend on one."""
    name, call = _split(key)
    for verdict in verdicts:
        if verdict.kind == "float" and (verdict.bad or verdict.verdict in ("equal", "agrees")):
            other, its_call = _split(verdict.name)
            if its_call == call and depends(other, name):
                yield verdict


def _not_that_stage(verdict: Verdict, later: str) -> Verdict:
    note = f"differs, but all stages that depend on it agree ({later} is the first): the name "
    note += "holds another stage, or its values are in another order"
    note += f" ({verdict.note})" if verdict.note else ""
    return replace(verdict, verdict="not that stage", note=note)


def _split(key: str) -> tuple[str, int]:
    name, _, call = key.partition("#")
    return name, int(call or 0)


def _is_gross(verdict: Verdict) -> bool:
    """Whether an error is so large that dependent stages cannot agree by chance."""
    return verdict.distance is None or verdict.distance.nmse > GROSS


def in_order(dump: Dump) -> Iterator[Entry]:
    """The entries, each with its position in the order of the dump or of a run."""
    entries = list(dump)
    if not any("sequence" in entry.info for entry in entries):
        entries.sort(key=lambda entry: (entry.call, position_in_run(entry.name)))
    for number, entry in enumerate(entries):
        yield replace(entry, info={**entry.info, "sequence": number})


def precision_for(reference: Dump, candidate: Dump, asked: str | None) -> str:
    """The precision to judge by. Raises UserError for an unknown one."""
    if asked is not None and asked not in BANDS:
        raise UserError(f"unknown precision {asked}; known are {', '.join(BANDS)}")
    return asked or precision_of(candidate, reference)


def comparison_of(
    reference: Dump, candidate: Dump, precision: str, verdicts: list[Verdict]
) -> Comparison:
    """The verdicts with their notes. Raises UserError when nothing could be judged."""
    known = {(e.name, e.call) for e in reference}
    extra = [e.key for e in candidate if (e.name, e.call) not in known]
    found = Comparison(reference, candidate, precision, verdicts, extra)
    if not found.compared:
        raise UserError(
            f"{candidate.source} and {reference.source} have no stage in common; the first holds "
            f"{', '.join(extra[:3])} ...: map its names to ours with --map"
        )
    if all(v.verdict == "not judged" for v in found.compared):
        raise UserError(
            f"no stage of {candidate.source} can be judged in {precision}: the rounding noise is "
            "as large as the values; compare in float32"
        )
    stored = {e.dtype for e in candidate if not e.exact}
    wide = stored & {"float32", "float64"}
    if wide and precision in stored & {"float16", "bfloat16"}:
        found.notes.append(
            f"some tensors of the candidate are {min(wide)}; all are judged as {precision}, "
            "the coarsest (--precision)"
        )
    for dump in (reference, candidate):
        found.notes += [f"{dump.source}: {note}" for note in dump.notes]
    if precision != "float32":
        found.notes.append(
            f"compared with the tolerances of {precision}, which can hide small bugs (such as "
            "QuickGELU instead of GELU): check the logic in float32 first"
        )
    if not any(entry.info.get("floor") for entry in reference):
        found.notes.append(
            f"{reference.source} has no noise floors: fixed tolerances of {precision} are used; "
            "record --floors measures them"
        )
    return found
