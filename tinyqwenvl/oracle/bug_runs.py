"""Runs of one prompt with every injected bug, each made once and compared many times."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np

from ..model import Model
from ..tracing import watching
from .mutants import apply, find_mutant
from .record import EveryCall, Job, run


@dataclass(frozen=True)
class Recorded:
    """The stages of a run up to the first token, and how it ended."""

    stages: tuple[tuple[str, int, np.ndarray], ...]  # (name, call, value)
    error: str | None = None  # the bug may break the run


class BugRuns:
    """The prefill of one prompt with each bug, recorded on first use.

    A stage that a bug leaves unchanged, bit by bit, shares its array with the run without bugs, so
    that array is compared only once. ``wanted`` are the stages to keep,
    as (name, call).
    """

    def __init__(self, model: Model, job: Job, wanted: Container[tuple[str, int]]):
        self.model, self.job, self.wanted = model, replace(job, tokens=0, forced=None), wanted
        self.whole = job
        self.recorded: dict[str | None, Recorded] = {}
        self.right: dict[tuple[str, int], np.ndarray] = {}  # of the run without bugs
        self.right = {(name, call): value for name, call, value in self.of(None).stages}

    @cached_property
    def shown(self) -> set[tuple[str, int]]:
        """Every stage that a run shows, to its last token."""
        return shown_by(self.model, self.whole)

    def of(self, mutant: str | None) -> Recorded:
        """The run with a bug; None: without."""
        if mutant not in self.recorded:
            self.recorded[mutant] = self._record(mutant)
        return self.recorded[mutant]

    def _record(self, mutant: str | None) -> Recorded:
        keep, error = _Keep(self), None
        try:
            with apply(mutant), watching(keep), np.errstate(all="ignore"):
                run(self.model, self.job)
        except Exception as reason:  # whatever a bug may raise
            error = f"{type(reason).__name__}: {reason}"
        return Recorded(tuple(keep.stages), error)


# ------------------------------------------------------------------ what a bug can change

PARTS = {  # of the run, that a bug in a module changes
    "chat": "prompt", "image": "prompt", "video": "prompt", "config": "prompt", "vision": "vision",
    "nn": "vision", "decoder": "text", "position": "text", "sampling": "text",
}  # fmt: skip


@cache
def parts_of(mutant: str) -> frozenset[str]:
    """The parts of a run that a bug can change: "prompt", "vision", "text"."""
    found = set()
    for path in find_mutant(mutant).make():
        module, _, name = path.partition(".")
        found.add("text" if name == "rope_index" else PARTS.get(module, "prompt"))
    return frozenset(found)


def part_of(key: str) -> str:
    """The part of a run that a stage belongs to, by its key."""
    if key.startswith("visual"):
        return "vision"
    return "text" if key.startswith(("model.", "lm_head", "generated")) else "prompt"


class Memo:
    """A vision encoder that is run once for the same patches."""

    def __init__(self, features: Callable[[Any, Any], Any]):
        self.features = features
        self.known: dict[tuple[bytes, bytes], Any] = {}

    def on(self, model: Model) -> Model:
        """The model, with this in place of its vision encoder."""
        cache: Any = self
        return replace(model, image_cache=cache)

    def __call__(self, pixels: np.ndarray, grids: np.ndarray) -> Any:
        """Patches and grids -> image tokens."""
        key = pixels.tobytes(), grids.tobytes()
        if key not in self.known:
            self.known[key] = self.features(pixels, grids)
        return self.known[key]


def shown_by(model: Model, job: Job) -> set[tuple[str, int]]:
    """(name, call) of every stage that a run without bugs shows."""
    watch = _Names()
    with watching(watch), np.errstate(all="ignore"):
        run(model, job)
    return watch.seen


class _Names(EveryCall):
    """Keeps the names of stages."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str, int]] = set()

    def observe(self, name: str, call: int, value: Any) -> None:
        """Keep a name."""
        self.seen.add((name, call))


class _Keep(EveryCall):
    """Keeps the wanted stages."""

    def __init__(self, runs: BugRuns):
        super().__init__()
        self.runs = runs
        self.stages: list[tuple[str, int, np.ndarray]] = []

    def observe(self, name: str, call: int, value: Any) -> None:
        """Keep a stage: the array of the right run where it is the same."""
        if (name, call) in self.runs.wanted:
            array = np.asarray(value)
            right = self.runs.right.get((name, call))
            if right is None or not _same_bits(right, array):
                right = array.copy()
            self.stages.append((name, call, right))


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays are the same, also in signs of zeros and in NaNs."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
