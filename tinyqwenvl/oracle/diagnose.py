"""Estimate constants from a difference: eps, scale, missing bias, border, number format.

Injected bugs are enumerated (:mod:`.explain`); here constants are estimated. Every line is
verified: with it applied, the candidate's first wrong stage is within its tolerance.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from ..config import ProcessorConfig, VisionConfig
from ..errors import UserError
from ..model import Model
from ..tracing import watching
from ..weights import change
from .bug_runs import Memo
from .diff import Comparison, fit
from .dump import Entry
from .image_faults import from_pixels
from .metrics import distance
from .precision import to_bf16, to_float16
from .record import EveryCall, Job, following, like, run
from .tolerance import Limits, band, within

FORMATS = {"float16": to_float16, "bfloat16": to_bf16}
ROUNDING = 1e-2  # an NMSE too large for a single rounding
BEFORE = 6  # stages before the first wrong one whose rounding is tried
PIXELS = ("image.resize", "image.normalise", "image.nine_dimensions", "pixel_values",
          "image_grid_thw")  # fmt: skip
CONTEXT = 3  # equal tokens shown beside a difference of ids


def diagnose(comparison: Comparison, model: Model | None = None) -> list[dict[str, Any]]:
    """[{"stage": the first wrong one, "what": one line}]; empty without a diagnosis.

    With a ``model`` norms' eps and rounding are fitted too, and ids are decoded.
    """
    first = comparison.first
    if first is None:
        return []
    entries = {e.key: e for e in comparison.reference}
    entry = entries[first.name]
    theirs = comparison.candidate.get(entry.name, entry.call)
    assert theirs is not None
    with np.errstate(all="ignore"):
        found = list(_all(comparison, entry, theirs, model))
    return [{"stage": first.name, "what": what} for what in dict.fromkeys(found)]


def _all(comparison: Comparison, entry: Entry, theirs: Entry, model: Model | None) -> Iterator[str]:
    if entry.name == "input_ids":
        ours, ids = (np.reshape(e.read(), -1) for e in (entry, theirs))
        yield from _ids(ours, ids, model)
    if entry.name in PIXELS:
        processor = model.config.processor if model else ProcessorConfig()
        vision = model.config.vision if model else VisionConfig(1, 4, 1, 4, 4)
        lines = list(from_pixels(comparison, processor, vision))
        yield from lines
        if lines:
            return
    if entry.exact or fit(theirs, entry.shape)[0] != entry.shape:
        return
    case = _Case(comparison, entry, theirs)
    found = next((line for look in (_scale, _constant) if (line := look(case, model))), None)
    if found:
        yield found
    explained = any(line["score"] == 1 for line in comparison.explanation)
    if model is not None and not found and not explained and not entry.name.startswith(PIXELS):
        runs = _Runs(case, model, following(comparison.reference, comparison.candidate,
                                            model.config))  # fmt: skip
        found = next((line for look in (_rounded, _eps) if (line := look(case, runs))), None)
        if found:
            yield found
    if not found and (line := _format(comparison)):
        yield line


class _Case:
    """The first wrong stage: ours, the candidate's, and the tolerance."""

    def __init__(self, comparison: Comparison, entry: Entry, theirs: Entry):
        self.entry, self.name = entry, entry.key
        self.ours = np.asarray(entry.read(), np.float32)
        self.theirs = np.reshape(theirs.read(), entry.shape).astype(np.float32)
        precision, reference = comparison.precision, comparison.reference
        self.limits: Limits = band(entry, precision, reference=reference)

    def is_given_by(self, value: Any) -> bool:
        """Whether the candidate holds ``value``, up to rounding."""
        value = np.asarray(value, np.float32)
        if value.shape != self.theirs.shape:
            return False
        far = distance(self.theirs, value)
        return within(far, self.limits) and not far.not_finite

    def error(self, value: Any) -> float:
        """NMSE of the candidate against ``value``."""
        far = distance(self.theirs, np.asarray(value, np.float32))
        return far.nmse if np.isfinite(far.nmse) and not far.not_finite else np.inf


# ------------------------------------------------------------------ ids


def _ids(ours: np.ndarray, theirs: np.ndarray, model: Model | None) -> Iterator[str]:
    """The pieces of text in which two lists of ids differ."""
    a, b = ours.tolist(), theirs.tolist()
    left, right = _repeats(a), _repeats(b)
    matcher = difflib.SequenceMatcher(None, left, right, False)
    for kind, i, j, k, m in matcher.get_opcodes():
        if kind != "equal":
            before = _text(left[max(0, i - CONTEXT) : i], model)
            yield (
                f"after {before or 'the beginning'}: {_text(right[k:m], model) or 'nothing'} "
                f"where ours has {_text(left[i:j], model) or 'nothing'}"
            )


def _repeats(ids: list[int]) -> list[tuple[int, int]]:
    """[(id, how often in a row)]."""
    found: list[tuple[int, int]] = []
    for number in ids:
        again = bool(found) and found[-1][0] == number
        found[-1:] = [(number, found[-1][1] + 1)] if again else [*found[-1:], (number, 1)]
    return found


def _text(runs: list[tuple[int, int]], model: Model | None) -> str:
    """Runs of ids as text: long ones as a number of times, ids where there is no tokenizer."""
    if not runs:
        return ""
    pieces, plain = [], []
    for number, times in [*runs, (-1, 0)]:
        if times in (1, 2, 3):
            plain += [number] * times
            continue
        if plain:
            pieces.append(_decoded(plain, model))
            plain = []
        if times:
            pieces.append(f"{_decoded([number], model)} x {times}")
    return " + ".join(pieces)


def _decoded(ids: list[int], model: Model | None) -> str:
    if model is not None:
        with suppress(Exception):  # ids that the tokenizer does not have
            return repr(model.tokenizer.decode(ids, skip_special=False))
    return str(ids)


# ------------------------------------------------------------------ one stage, from its values


def _scale(case: _Case, _: Model | None) -> str | None:
    """All values are ours times one factor."""
    ours, theirs = (x.astype(np.float64) for x in (case.ours, case.theirs))
    times = float(np.sum(ours * theirs) / max(np.sum(ours * ours), 1e-300))
    if not np.isfinite(times) or not case.is_given_by(times * case.ours):
        return None
    size = case.ours.shape[-1]
    root = "the square root of"
    known = {root: size**0.5, f"one over {root}": size**-0.5, "": float(size)}
    names = [f"{word} {size}".strip() for word, v in known.items() if abs(times / v - 1) < 1e-4]
    return f"every value is {times:.6g} times ours" + (f", {names[0]}" if names else "")


def _rows_of(x: np.ndarray) -> np.ndarray:
    """[rows, values]; the heads of a row concatenated."""
    return np.reshape(np.moveaxis(x, 0, -2), (x.shape[-2], -1)) if x.ndim == 3 else x


def _constant(case: _Case, model: Model | None) -> str | None:
    """The difference is one vector for all rows: a bias."""
    if case.ours.ndim not in (2, 3) or case.ours.shape[-2] < 2:
        return None
    ours, theirs = (_rows_of(x).astype(np.float64) for x in (case.ours, case.theirs))
    vector = np.mean(theirs - ours, axis=0)
    far = distance(theirs, ours + vector)
    if not within(far, case.limits):
        return None
    bias = _bias(case.entry.name, model)
    if bias is not None and bias.shape == vector.shape:
        used = np.abs(vector) > 1e-4 * np.max(np.abs(vector))
        for times, word in ((-1, "is missing"), (1, "is added twice")):
            if np.allclose(vector[used], times * bias[used], rtol=1e-2, atol=1e-5):
                where = np.flatnonzero(used)
                part = "" if used.mean() > 0.9 else f" in elements {where[0]} to {where[-1]}"
                return f"the bias of {case.entry.name} {word}{part}"
    length = float(np.linalg.norm(vector))
    return f"every row differs from ours by the same vector, of norm {length:.4g}: a bias"


def _bias(path: str, model: Model | None) -> np.ndarray | None:
    """The bias of a linear layer or a norm, by the path of its stage."""
    if model is None:
        return None
    node: Any = model.weights
    try:
        for part in path.split("."):
            node = node[int(part)] if part.isdecimal() else getattr(node, part)
        return np.asarray(node.bias, np.float64) if "bias" in node else None
    except (AttributeError, KeyError, IndexError, TypeError, UserError):
        return None


# ------------------------------------------------------------------ one stage, from runs of ours


class _Reached(Exception):
    """The requested stage was reached."""


class _Until(EveryCall):
    """Runs up to one stage; earlier ones may be changed."""

    def __init__(self, name: str, call: int, changes: Mapping[tuple[str, int], Callable]):
        super().__init__()
        self.wanted, self.changes = (name, call), changes
        self.value: Any = None
        self.passed: list[tuple[str, int]] = []

    def observe(self, name: str, call: int, value: Any) -> Any:
        """Take the stage, or change one before it."""
        if (name, call) == self.wanted:
            self.value = np.array(value)
            raise _Reached
        if getattr(value, "dtype", np.dtype(int)).kind == "f":
            self.passed.append((name, call))
        edit = self.changes.get((name, call))
        return None if edit is None else like(edit(np.asarray(value)), value)


class _Runs:
    """Runs of our model up to the first wrong stage."""

    def __init__(self, case: _Case, model: Model, job: Job):
        self.case, self.model = case, model
        with suppress(Exception):  # the prompt is prepared once
            job = _prepared(job, model)
        if not case.entry.name.startswith("visual"):  # and the vision encoder is run once
            self.model = Memo(model.image_features).on(model)
        self.job, self.passed = job, list[tuple[str, int]]()

    def value(self, model: Model | None = None, **changes: Any) -> Any:
        """The stage as ``model`` (None: ours) gives it with ``edits``; None if the run fails."""
        watch = _Until(self.case.entry.name, self.case.entry.call, changes.get("edits", {}))
        with suppress(Exception), watching(watch), np.errstate(all="ignore"):
            run(model or self.model, self.job)
        self.passed = watch.passed
        return watch.value


def _prepared(job: Job, model: Model) -> Job:
    """The same prompt, so that images are read only once."""
    given = job.inputs(model)
    names = ("input_ids", "pixel_values", "image_grid_thw", "pixel_values_videos",
             "video_grid_thw")  # fmt: skip
    media = {n: x for n in names if (x := getattr(given, n)) is not None}
    media |= {"second_per_grid_ts": given.second_per_grid_ts} if given.second_per_grid_ts else {}
    return replace(job, messages=None, media=media)


def _rounded(case: _Case, runs: _Runs) -> str | None:
    """The stage agrees if an earlier stage, or the weights, are rounded to another format."""
    if case.error(runs.value()) > ROUNDING:
        return None
    before = runs.passed[-BEFORE:]
    for name, rounding in FORMATS.items():
        for stage in reversed(before):
            value = runs.value(edits={stage: rounding})
            if value is not None and case.is_given_by(value):
                return f"it agrees when {stage[0]} is rounded to {name} first"
        weights = change(runs.model.weights, _rounding_leaves(rounding))
        value = runs.value(replace(runs.model, weights=weights))
        if value is not None and case.is_given_by(value):
            return f"it agrees when the weights are rounded to {name}"
    return None


def _rounding_leaves(rounding: Callable[[np.ndarray], np.ndarray]) -> Callable[[str, Any], Any]:
    return lambda _, leaf: rounding(np.asarray(leaf))


def _eps(case: _Case, runs: _Runs) -> str | None:
    """The stage agrees with another eps in the norms of the vision encoder or decoder."""
    part = "vision" if case.entry.name.startswith("visual") else "text"
    config = runs.model.config
    settings = getattr(config, part)

    def error(eps: float) -> float:
        other = replace(config, **{part: replace(settings, rms_norm_eps=eps)})
        value = runs.value(replace(runs.model, config=other))
        return np.inf if value is None else case.error(value)

    right = error(settings.rms_norm_eps)
    if abs(error(1.0) - right) < 1e-3 * right:
        return None  # no norm before it
    grid = [0.0, *(10.0 ** (k / 2) for k in range(-24, 1))]
    errors = [error(eps) for eps in grid]
    best = int(np.argmin(errors))
    if not errors[best] < right:
        return None
    eps = grid[best] if best == 0 else _refined(error, grid[max(best - 1, 1)], grid[best])
    return _shortest(case, runs, error, eps, part)


def _shortest(
    case: _Case, runs: _Runs, error: Callable[[float], float], eps: float, part: str
) -> str | None:
    """The eps with fewest digits that fits the candidate's stage as well as the estimate."""
    config, least = runs.model.config, error(eps)
    settings = getattr(config, part)
    for digits in (1, 2, 3, 4, 8):
        short = float(f"{eps:.{digits - 1}e}")
        other = replace(config, **{part: replace(settings, rms_norm_eps=short)})
        value = runs.value(replace(runs.model, config=other))
        if value is not None and case.is_given_by(value) and case.error(value) <= 2 * least:
            return f"the {part} norms have eps {short:g}, where ours have {settings.rms_norm_eps:g}"
    return None


def _refined(error: Callable[[float], float], low: float, middle: float) -> float:
    """The eps with the smallest error near ``middle`` (between ``low`` and as far above)."""
    golden = (5**0.5 - 1) / 2
    a, b = np.log(low), 2 * np.log(middle) - np.log(low) + 1e-9
    a, b = min(a, b), max(a, b)
    b = b if low < middle else b + 1.2
    x, y = b - golden * (b - a), a + golden * (b - a)
    here, there = error(np.exp(x)), error(np.exp(y))
    for _ in range(24):
        if here < there:
            b, y, there = y, x, here
            x = b - golden * (b - a)
            here = error(np.exp(x))
        else:
            a, x, here = x, y, there
            y = a + golden * (b - a)
            there = error(np.exp(y))
    return float(np.exp((a + b) / 2))


# ------------------------------------------------------------------ the whole run


def _format(comparison: Comparison) -> str | None:
    """Every stage that differs is within the rounding noise of a coarser format."""
    if comparison.precision != "float32":
        return None
    wrong = [v for v in comparison.compared if v.bad]
    entries = {e.key: e for e in comparison.reference}
    if any(v.kind == "exact" and not v.name.startswith("generated") for v in wrong):
        return None
    floats = [v for v in wrong if v.kind == "float"]
    for name in FORMATS:
        reference = comparison.reference
        limits = {v.name: band(entries[v.name], name, reference=reference) for v in floats}
        if all(v.distance and within(v.distance, limits[v.name]) for v in floats):
            return (
                f"all {len(floats)} stages that differ are within the rounding noise of {name}: "
                f"was it computed in {name}? (Its noise can hide a small bug.)"
            )
    return None
