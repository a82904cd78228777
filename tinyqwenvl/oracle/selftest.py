"""Check by running that a vector catches every injected bug, and that it is named."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..model import Model, load
from ..tracing import watching
from .bug_runs import BugRuns
from .diff import compare, judge
from .dump import Dump, Entry, key_of
from .explain import answers_with, explain, explain_answers
from .mutants import MUTANTS, apply
from .readers import open_dump
from .record import EveryCall, Job, job_from_file, record, run
from .tolerance import band
from .vectors import FOLDER, Case, answer_to, family_of, unit_cases
from .vectors import judge as judge_answer

MODELS = FOLDER / "models"


@dataclass(frozen=True)
class ModelCase:
    """A small model and the reference of every stage of one prompt."""

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
    """The first stage at which our model, with a mutant, differs from the case; or None."""
    watch = _Judge(case.reference)
    try:
        with apply(mutant), np.errstate(all="ignore"), watching(watch):
            run(case.model, case.job)
    except _Wrong as wrong:
        return str(wrong)
    except Exception as error:  # a bug may break the run: then it is detected
        return f"{type(error).__name__}: {error}"
    return None


class _Wrong(Exception):
    """A stage is wrong, so the run can stop."""


class _Judge(EveryCall):
    """Stops at the first wrong stage."""

    def __init__(self, reference: Dump):
        super().__init__()
        self.reference = reference

    def observe(self, name: str, call: int, value: Any) -> None:
        """Judge a stage."""
        if _is_wrong(self.reference, name, call, np.asarray(value)):
            raise _Wrong(key_of(name, call))


def _is_wrong(reference: Dump, name: str, call: int, array: np.ndarray) -> bool:
    """Whether a stage differs from the reference, if the reference has it."""
    ours = reference.get(name, call)
    theirs = Entry(name, call, array.shape, str(array.dtype), lambda: array)
    if ours is None:
        return False
    return judge(ours, theirs, "float32", band(ours, "float32", reference=reference)).bad


# ------------------------------------------------------------------ every bug against every case


@dataclass(frozen=True)
class Result:
    """The result for one mutant."""

    mutant: str
    killed_by: list[str]
    named: str | None


class Trial:
    """Tries mutants one by one; shared results are computed once.

    That is the answers to the unit cases and the prefill of the model cases, with each bug.
    """

    def __init__(self) -> None:
        self.units = list(unit_cases())
        self.cases = model_cases()
        self.answers: dict[str, dict[str, Any]] = {}  # mutant -> case id -> answer
        self.runs = {c.id: BugRuns(c.model, c.job, c.reference.entries) for c in self.cases}
        self.wrong: dict[tuple[str, int], bool] = {}  # stage's key, id of its array -> is it wrong

    def result(self, mutant: str) -> Result:
        """Which vectors catch a mutant, and which mutant the oracle names."""
        answers = self.answers_of(mutant, self.units)
        killed_by = [c["id"] for c in self.units if not judge_answer(c, answers[c["id"]])]
        killed_by += [c.id for c in self.cases if self.wrong_stage(c, mutant) is not None]
        return Result(mutant, killed_by, self.named(mutant, killed_by) if killed_by else None)

    def answers_of(self, mutant: str, _: Sequence[Case]) -> Mapping[str, Any]:
        """Its answers to all unit cases."""
        if mutant not in self.answers:
            self.answers[mutant] = answers_with(mutant, self.units)
        return self.answers[mutant]

    def wrong_stage(self, case: ModelCase, mutant: str) -> str | None:
        """As the function of that name; decoding is run only if the prefill is right."""
        recorded = self.runs[case.id].of(mutant)
        for name, call, value in recorded.stages:
            known = (f"{case.id} {key_of(name, call)}", id(value))  # the runs keep it alive
            if known not in self.wrong:
                self.wrong[known] = _is_wrong(case.reference, name, call, value)
            if self.wrong[known]:
                return key_of(name, call)
        if recorded.error is not None or not case.job.tokens:
            return recorded.error
        return wrong_stage(case, mutant)

    def named(self, mutant: str, killed_by: Sequence[str]) -> str | None:
        """The mutant that the oracle names first for a port with this bug.

        The port runs the reference forms, so that its rounding is not the explanation's. Where no
        model case catches the bug, the answers to the unit cases are explained.
        """
        for case in self.cases:
            if case.id in killed_by and (name := self._named_by_stages(case, mutant)):
                return name
        families = {family_of(case) for case in self.units if case["id"] in killed_by}
        answers = self.answers_of(mutant, self.units)
        answers = {c["id"]: answers[c["id"]] for c in self.units if family_of(c) in families}
        explanation = explain_answers(answers, 1, self.answers_of)
        return explanation[0]["mutant"] if explanation else None

    def _named_by_stages(self, case: ModelCase, mutant: str) -> str | None:
        with tempfile.TemporaryDirectory() as folder:
            try:
                candidate = _record_port(case, mutant, Path(folder) / "candidate.safetensors")
            except Exception:  # the bug breaks the run: there is no dump to explain
                return None
            found = compare(case.reference, candidate, "float32")
            explanation = explain(found, case.model, 1, self.runs[case.id], faults=1)
        return explanation[0]["mutant"] if explanation else None


def _record_port(case: ModelCase, mutant: str, path: Path) -> Dump:
    """The dump of a port with a bug, which runs the reference forms."""
    port = replace(case.model, reference=True)
    stages = sorted({entry.name for entry in case.reference})
    with apply(mutant), np.errstate(all="ignore"):
        job = replace(case.job, forced=None)
        return record(port, job, path, stages, inputs=False, floors=())


# ------------------------------------------------------------------ on several cores

PER_WORKER = 8  # mutants per extra process
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def selftest(mutants: Sequence[str] | None = None, workers: int = 1) -> Iterator[Result]:
    """For each mutant, which vectors catch it and which mutant the oracle names.

    On up to ``workers`` processes; results come in the order of ``mutants`` (None: all).
    """
    names = list(mutants or MUTANTS)
    workers = min(workers, -(-len(names) // PER_WORKER))
    if workers <= 1:
        yield from map(Trial().result, names)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_ignore_interrupt)
    try:
        with _one_thread_per_process():
            results = [pool.submit(_result, name) for name in names]
        for result in results:
            yield result.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _ignore_interrupt() -> None:
    """Ctrl-C ends the process that waits for us, and it ends us."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@cache
def _trial() -> Trial:
    """The trial of a worker process."""
    return Trial()


def _result(mutant: str) -> Result:
    return _trial().result(mutant)


@contextmanager
def _one_thread_per_process() -> Iterator[None]:
    """Processes that start in the block do not use several threads for one product."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# ------------------------------------------------------------------ for people


def as_line(result: Result) -> str:
    """One line of text."""
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
    """Case -> the mutants that it detects, according to the files."""
    manifest = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
    claims = {case["id"]: case.get("kills", []) for case in unit_cases()}
    return claims | {case["id"]: case["kills"] for case in manifest.get("models", ())}
