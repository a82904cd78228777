"""Do the vectors catch every mistake, and is it named? Nothing is claimed: all of it is run."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..model import Model, load
from ..tracing import watching
from .diff import compare, judge
from .dump import Dump, Entry, key_of
from .explain import explain, explain_answers
from .mutants import MUTANTS, apply
from .readers import open_dump
from .record import EveryCall, Job, job_from_file, record, run
from .vectors import FOLDER, answer_to, family_of, unit_cases
from .vectors import judge as judge_answer

MODELS = FOLDER / "models"


@dataclass(frozen=True)
class ModelCase:
    """A small model and what is right at every stage of one prompt."""

    id: str
    model: Model
    reference: Dump
    job: Job


@cache
def model_cases() -> tuple[ModelCase, ...]:
    """All model cases of the vectors."""
    found = []
    for path in sorted(MODELS.glob("*.safetensors")):
        reference = open_dump(path)
        model = load(MODELS / reference.about["checkpoint"])
        job = job_from_file(reference, model.config)
        found.append(ModelCase(f"models/{path.stem}", model, reference, job))
    return tuple(found)


# ------------------------------------------------------------------ kills


def unit_kills(mutant: str) -> list[str]:
    """The unit cases that a mutant answers wrongly."""
    with apply(mutant):
        return [case["id"] for case in unit_cases() if not judge_answer(case, answer_to(case))]


def model_kills(mutant: str) -> list[str]:
    """The model cases in which a mutant gives a wrong stage, or fails."""
    return [case.id for case in model_cases() if wrong_stage(case, mutant) is not None]


def wrong_stage(case: ModelCase, mutant: str | None = None) -> str | None:
    """The first stage at which our model, with a mutant, is not what the case says; or None."""
    watch = _Judge(case.reference)
    try:
        with apply(mutant), np.errstate(all="ignore"), watching(watch):
            run(case.model, case.job)
    except _Wrong as wrong:
        return str(wrong)
    except Exception as error:  # a mistake may break the run: then it was noticed
        return f"{type(error).__name__}: {error}"
    return None


class _Wrong(Exception):
    """A stage is wrong: no need to go on."""


class _Judge(EveryCall):
    """Stops at the first wrong stage."""

    def __init__(self, reference: Dump):
        super().__init__()
        self.reference = reference

    def observe(self, name: str, call: int, value: Any) -> None:
        """Judge a stage."""
        ours = self.reference.get(name, call)
        if ours is None:
            return
        array = np.asarray(value)
        theirs = Entry(name, call, array.shape, str(array.dtype), lambda: array)
        if judge(ours, theirs, "float32").bad:
            raise _Wrong(key_of(name, call))


# ------------------------------------------------------------------ naming


def named(mutant: str, killed_by: Sequence[str]) -> str | None:
    """What the oracle says of a port that makes this mistake: the mutant it names first.

    The port runs the reference forms, so that its rounding is not the explanation's. Where no model
    case catches the mistake, the answers to the unit cases are explained.
    """
    for case in model_cases():
        if case.id in killed_by and (name := _named_by_stages(case, mutant)):
            return name
    families = {family_of(case) for case in unit_cases() if case["id"] in killed_by}
    with apply(mutant):
        asked = [case for case in unit_cases() if family_of(case) in families]
        answers = {case["id"]: answer_to(case) for case in asked}
    explanation = explain_answers(answers)
    return explanation[0]["mutant"] if explanation else None


def _named_by_stages(case: ModelCase, mutant: str) -> str | None:
    reference = replace(case.model, reference=True)
    stages = sorted({entry.name for entry in case.reference})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "candidate.safetensors"
        try:
            with apply(mutant), np.errstate(all="ignore"):
                job = replace(case.job, forced=None)
                candidate = record(reference, job, path, stages, inputs=False, floors=())
        except Exception:  # it breaks the run: there is no dump to explain
            return None
        found = compare(case.reference, candidate, "float32")
        explanation = explain(found, case.model, most=1)
    return explanation[0]["mutant"] if explanation else None


# ------------------------------------------------------------------ all of it


@dataclass(frozen=True)
class Result:
    """What became of one mutant."""

    mutant: str
    killed_by: list[str]
    named: str | None


def selftest(mutants: Sequence[str] | None = None) -> Iterator[Result]:
    """Each mutant: which vectors catch it, and what the oracle calls it."""
    for mutant in mutants or list(MUTANTS):
        killed_by = unit_kills(mutant) + model_kills(mutant)
        yield Result(mutant, killed_by, named(mutant, killed_by) if killed_by else None)


def as_line(result: Result) -> str:
    """For people."""
    if not result.killed_by:
        return f"{result.mutant:36} SURVIVES"
    name = "named" if result.named == result.mutant else f"taken for {result.named}"
    return f"{result.mutant:36} killed by {len(result.killed_by):3}  {name}"


def conclusion(results: Sequence[Result]) -> str:
    """The last line: both counts."""
    killed = sum(bool(r.killed_by) for r in results)
    right = sum(r.named == r.mutant for r in results)
    return f"{killed} of {len(results)} mutants killed, {right} named right first"


def claimed_kills() -> dict[str, list[str]]:
    """Case -> the mutants that the files say it detects."""
    manifest = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
    claims = {case["id"]: case.get("kills", []) for case in unit_cases()}
    return claims | {case["id"]: case["kills"] for case in manifest.get("models", ())}
