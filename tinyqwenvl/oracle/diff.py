"""Comparing two dumps: one verdict a stage, and the first stage that differs.

Integers and geometry come first and must be equal. Floating-point stages are judged by three
distances at once (NMSE, cosine of the worst row, largest error), each against a multiple of what
rounding alone does to that stage: its noise floor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from ..errors import UserError
from ..model import Model
from ..tracing import watching
from .align import align, same_tokens
from .bits import format_of_dump
from .dump import Dump, Entry
from .metrics import Distance, distance
from .record import EveryCall, following, like, run
from .stages import position_in_run

# How far over its noise floor a stage may be: NMSE and 1 - cosine, which are squares, so that the
# largest error may be the root of it. scripts/calibrate_oracle.py: of 40 models of transformers the
# worst stage was at 23 floors in float32 and at 7.5 in bfloat16.
MULTIPLE = {"float32": 100.0, "float16": 16.0, "bfloat16": 16.0, "int8": 16.0}
# No stage is held to less: half a unit of the last place of each number, squared.
LEAST = {"float32": 1e-14, "float16": 2e-7, "bfloat16": 1.5e-5, "int8": 1e-14}
# Where a dump has no noise floors: (NMSE, 1 - cosine of the worst row, largest error / std).
BANDS = {
    "float32": (1e-9, 1e-5, 1e-4), "float16": (1e-5, 5e-4, 2e-2), "bfloat16": (1e-3, 5e-3, 1e-1),
    "int8": (1e-2, 2e-2, 5e-1),
}  # fmt: skip
HOPELESS = 0.5  # a band (of NMSE or 1 - cosine) that zeros or noise would pass
Limits: TypeAlias = tuple[float, float, float]
AFTER = ("generated",)  # integers that follow from floating-point numbers
BAD = ("differs", "shape", "not finite")


@dataclass(frozen=True)
class Verdict:
    """The verdict on one stage.

    ``verdict``: "equal" (bit by bit), "agrees" (within its band), "differs", "shape" (of another
    shape), "not finite", "missing" (the candidate does not hold it), "not judged".
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
    extra: list[str] = field(default_factory=list)  # what only the candidate holds
    notes: list[str] = field(default_factory=list)
    explanation: list[dict[str, Any]] = field(default_factory=list)

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
            "extra": self.extra,
            "notes": self.notes,
        }


# ------------------------------------------------------------------ tolerances


def band(
    entry: Entry, precision: str, scope: str = "entire", multiple: float | None = None
) -> Limits:
    """How far a stage may be: (NMSE, 1 - cosine of the worst row, largest error / std)."""
    floors = entry.info.get("floor") or {}
    known = [floors[p][scope] for p in {precision, "float32"} if scope in floors.get(p, {})]
    if precision not in floors or not known:
        return BANDS[precision]
    least, multiple = LEAST[precision], multiple or MULTIPLE[precision]
    squares = [
        multiple * max(least, *(floor[n] for floor in known)) for n in ("nmse", "cosine_error")
    ]
    largest = max(np.sqrt(least), *(floor["max_error"] for floor in known))
    return squares[0], squares[1], float(np.sqrt(multiple) * largest)


def added(bands: Sequence[Limits]) -> Limits:
    """The band of several stages in a row: their noise adds up."""
    nmse, cosine, largest = np.transpose(bands)
    return float(np.sum(nmse)), float(np.sum(cosine)), float(np.sqrt(np.sum(largest**2)))


def within(far: Distance, limits: Limits) -> bool:
    """All three distances at once."""
    return far.nmse <= limits[0] and far.cosine_error <= limits[1] and far.max_error <= limits[2]


def precision_of(dump: Dump, reference: Dump | None = None) -> str:
    """The coarsest floating-point format that a dump's floating-point stages are stored in.

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
        return replace(verdict, verdict="differs", note=f"of dtype {candidate.dtype}")
    if ours.shape != shape:  # ours, run on what the candidate holds
        note = f"ours gives {list(ours.shape)} there; is it of another prompt?"
        return replace(verdict, verdict="shape", note=note)
    far = distance(theirs, ours)
    limits = limits or band(reference, precision)
    word = "agrees" if within(far, limits) else "differs"
    if max(limits[:2]) >= HOPELESS and not far.not_finite and far[:3] != (0, 0, 0):
        word, note = "not judged", f"{precision} alone moves it as much"
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
    stored), ``multiple`` how far over the noise floor a stage may be (None: :data:`MULTIPLE`).
    Raises UserError when the two hold no stage in common.
    """
    reference, candidate = align(reference, candidate)
    candidate = same_tokens(reference, candidate)
    precision = _precision(reference, candidate, precision)
    verdicts = []
    for entry in _ordered(reference):
        theirs = candidate.get(entry.name, entry.call)
        if theirs is None:
            kind = "exact" if entry.exact else "float"
            number = entry.info.get("sequence", 0)
            verdicts.append(Verdict(entry.key, "missing", kind, number, entry.shape))
        else:
            limits = band(entry, precision, "entire", multiple)
            verdicts.append(judge(entry, theirs, precision, limits))
    return _comparison(reference, candidate, precision, verdicts)


def _ordered(dump: Dump) -> Iterator[Entry]:
    """The entries, each with its position in the order: the dump's own, or that of a run."""
    entries = list(dump)
    if not any("sequence" in entry.info for entry in entries):
        entries.sort(key=lambda entry: (entry.call, position_in_run(entry.name)))
    for number, entry in enumerate(entries):
        yield replace(entry, info={**entry.info, "sequence": number})


def _precision(reference: Dump, candidate: Dump, asked: str | None) -> str:
    if asked is not None and asked not in BANDS:
        raise UserError(f"no precision is called {asked}; known are {', '.join(BANDS)}")
    return asked or precision_of(candidate, reference)


def _comparison(
    reference: Dump, candidate: Dump, precision: str, verdicts: list[Verdict]
) -> Comparison:
    known = {(e.name, e.call) for e in reference}
    extra = [e.key for e in candidate if (e.name, e.call) not in known]
    found = Comparison(reference, candidate, precision, verdicts, extra)
    if not found.compared:
        raise UserError(
            f"{candidate.source} and {reference.source} hold no stage in common; it holds "
            f"{', '.join(extra[:3])} ...: map its names to ours with --map"
        )
    if all(v.verdict == "not judged" for v in found.compared):
        raise UserError(
            f"no stage that {candidate.source} holds can be judged in {precision}: rounding alone "
            "moves them as much; compare in float32"
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
            f"judged by the bands of {precision}, which are wide enough to hide small bugs "
            "(QuickGELU for GELU, say): check the logic in float32 first"
        )
    if not any(entry.info.get("floor") for entry in reference):
        found.notes.append(
            f"{reference.source} has no noise floors: fixed bands of {precision} are used; "
            "record --floors measures them"
        )
    return found


# ------------------------------------------------------------------ each stage on its own


def single(
    model: Model,
    reference: Dump,
    candidate: Dump,
    precision: str | None = None,
    multiple: float | None = None,
) -> Comparison:
    """Each stage on its own: what ours gives for the candidate's own input, against its output.

    The model runs the reference's prompt, but after every stage goes on with what the candidate
    has. This separates a stage that is wrong from one that inherits an upstream error. Between
    stages that the candidate does not hold, ours are run.
    """
    reference, candidate = align(reference, candidate)
    precision = _precision(reference, candidate, precision)
    watch = _Steer(reference, candidate, precision, multiple)
    job = following(reference, candidate, model.config)
    with watching(watch), np.errstate(all="ignore"):
        run(model, job)
    found = watch.verdicts
    verdicts = []
    for entry in _ordered(reference):
        kind = "exact" if entry.exact else "float"
        missing = Verdict(entry.key, "missing", kind, entry.info["sequence"], entry.shape)
        verdict = found.get(entry.key, missing)
        verdicts.append(replace(verdict, sequence=entry.info["sequence"]))
    return _comparison(reference, candidate, precision, verdicts)


class _Steer(EveryCall):
    """Judges each stage and then replaces it with the candidate's."""

    def __init__(self, reference: Dump, candidate: Dump, precision: str, multiple: float | None):
        super().__init__()
        self.reference, self.candidate = reference, candidate
        self.precision, self.multiple = precision, multiple
        self.verdicts: dict[str, Verdict] = {}
        self.run: list[Limits] = []  # of stages that the candidate does not hold, since the last

    def observe(self, name: str, call: int, value: Any) -> Any:
        """Judge a stage."""
        ours, theirs = self.reference.get(name, call), self.candidate.get(name, call)
        if ours is None:
            return None
        follows = not ours.exact or name in AFTER
        if not ours.exact:
            self.run.append(band(ours, self.precision, "single", self.multiple))
        if theirs is None:
            return None
        limits = added(self.run) if self.run else None
        expected = ours.of(np.asarray(value)) if follows else None
        self.verdicts[ours.key] = judge(ours, theirs, self.precision, limits, expected)
        if ours.exact or fit(theirs, ours.shape)[0] != ours.shape:
            return None
        self.run = []
        return like(ours.put(value, np.reshape(theirs.read(), ours.shape)), value)
