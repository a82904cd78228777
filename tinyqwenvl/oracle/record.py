"""Run a prompt and record every stage: the reference of a comparison."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import math
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__, decoder, deprecated, sampling
from ..checkpoint import parameter_count
from ..config import Config
from ..model import Model
from ..nn import KVCache
from ..tracing import current_name, watching
from ..tracing import record as show
from . import dump as dumps
from .dump import Dump, Entry, Writer, key_of
from .job import (
    LARGEST_GRID,
    MEDIA,
    Job,
    checked_options,
    following,
    generated,
    job_from_file,
    messages_as_json,
)
from .metrics import Distance, distance
from .precision import Rounded, in_precision, inputs_in, rounded
from .stages import BEGINNINGS

HELD = 1 << 28  # bytes of a dump that is held in memory while its floors are measured
SMALL = 100_000_000  # weights up to which noise floors are measured by default
MEASURED = ("float32", "float16", "bfloat16", "int8")

__all__ = [
    "LARGEST_GRID", "MEASURED", "MEDIA", "SMALL", "EveryCall", "Job", "checked_options",
    "fingerprint", "floor_of", "following", "generated", "job_from_file", "like", "measure_floors",
    "messages_as_json", "record", "run",
]  # fmt: skip


# ------------------------------------------------------------------ one run


def run(model: Model, job: Job, precision: str | None = None) -> None:
    """Run everything from the prompt to the last token; watchers get every stage.

    ``precision``: the one in which ``model`` computes, where :func:`in_precision` made it.
    """
    inputs = job.inputs(model)
    show("second_per_grid_ts", np.array(inputs.second_per_grid_ts, np.float32))
    show("model.rope_delta", np.array(inputs.rope_delta))
    inputs, cache = inputs_in(inputs, model.dtype, precision), KVCache()
    choose, ids = sampling.GREEDY.chooser(), inputs.input_ids
    embeds, positions = model.embed(inputs), inputs.position_ids
    for step in range(job.tokens + 1):
        x = model.decode(embeds, positions, cache)
        logits = decoder.logits(x, model.weights.lm_head)
        if step == job.tokens:
            return
        token = choose(np.asarray(logits[-1]), ids)
        show("generated", np.array([token]))
        token = job.forced[step] if job.forced else token
        ids = np.append(ids, token)
        embeds = model.embed_tokens(np.array([token]))
        positions = np.full((3, 1), cache.length + inputs.rope_delta)


# ------------------------------------------------------------------ recording


def record(
    model: Model,
    job: Job,
    path: str | Path,
    stages: Sequence[str] = ("*",),
    inputs: bool = True,
    floors: Sequence[str] | None = None,
    source: str | None = None,
    weights_from: Sequence[str | Path] = (),
) -> Dump:
    """Run a prompt and write a dump of all stages whose name fits one of the globs ``stages``.

    ``inputs``: also write a stage's inputs that no other stage gave. ``floors``: the
    number formats whose noise is measured (None: all of them for models of up to 100 million
    weights, else none). ``source`` says which checkpoint it is, and ``weights_from`` which files
    ``model`` has its weights from instead (:func:`.own_weights.with_weights`). Returns the dump,
    open.
    """
    path = Path(path)
    about = {
        "made_by": {"tinyqwenvl": __version__, "numpy": np.__version__},
        "model_type": model.config.model_type,
        "model": _model_line(model, source, weights_from),
        "dtype": np.dtype(model.dtype).name,
        "messages": messages_as_json(job.messages),
        "options": checked_options(job.options),
    }
    with Writer(path, about) as writer, watching(_Keep(writer, stages, inputs)):
        run(model, job)
    if floors is None:
        floors = MEASURED if parameter_count(model.config) <= SMALL else ()
    if floors:
        measure_floors(model, path, floors)
    return dumps.read_dump_file(path)


def _model_line(
    model: Model, source: str | None, weights_from: Sequence[str | Path]
) -> dict[str, Any]:
    """The model's entry in a manifest; folders are absolute, so that they can be found again."""
    if source is not None and source != "embedded" and Path(source).is_dir():
        source = str(Path(source).resolve())
    line: dict[str, Any] = {"source": source, "fingerprint": fingerprint(model.config)}
    if weights_from:
        line["weights_from"] = [str(Path(path).resolve()) for path in weights_from]
    return line


def fingerprint(config: Config) -> str:
    """Twelve digits that differ between models of different shapes."""
    shape = repr((config.model_type, config.vision, config.text))
    return hashlib.sha256(shape.encode()).hexdigest()[:12]


class _Keep:
    """A watcher that writes the chosen stages, and the names of their inputs."""

    def __init__(self, writer: Writer, globs: Sequence[str], inputs: bool):
        self.writer, self.inputs = writer, inputs
        self.globs = tuple(map(current_name, globs))
        self.keys: dict[int, tuple[Any, str]] = {}  # id -> (weak reference, key)

    def __call__(self, name: str, value: Any, inputs: dict[str, Any]) -> None:
        if name not in BEGINNINGS and not any(fnmatch.fnmatchcase(name, g) for g in self.globs):
            return
        made_of: dict[str, str] = {}
        if self.inputs:
            stage = key_of(name, self.writer.calls.get(name, -1) + 1)
            made_of = {n: self._key(stage, n, x) for n, x in inputs.items()}
        self._remember(value, self.writer.add(name, value, made_of))

    def _key(self, stage: str, argument: str, x: Any) -> str:
        reference, key = self.keys.get(id(x), (lambda: None, ""))
        if reference() is x:
            return key
        key = self.writer.add_input(stage, argument, x)
        self._remember(x, key)
        return key

    def _remember(self, value: Any, key: str) -> None:
        if isinstance(value, np.ndarray):
            self.keys[id(value)] = weakref.ref(value), key


# ------------------------------------------------------------------ noise floors


def measure_floors(model: Model, path: Path, precisions: Sequence[str]) -> None:
    """Add each stage's noise floor, the error of rounding alone, to a dump's manifest.

    For "float32" the dump is compared with a float64 run; the others are run themselves and
    compared with the dump. "entire": of the whole run up to the stage; "single": of the stage
    alone, on the dump's inputs.
    """
    reference = dumps.read_dump_file(path)
    manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    job = job_from_file(reference, model.config)
    found: dict[str, dict[str, Any]] = {}
    size = sum(math.prod(entry.shape) * 4 for entry in reference)
    held: dict[str, np.ndarray] | None = {} if size <= HELD else None
    for precision in precisions:
        # A float32 dump is compared with float64; a float64 dump with float32.
        truth = precision == "float32" and np.dtype(model.dtype) == np.float32
        run_in = "float64" if truth else precision
        other = in_precision(model, run_in)
        for scope in ("entire", "single"):
            watch = _Measure(reference, scope == "single", held)
            with watching(watch), np.errstate(over="ignore", invalid="ignore"):
                run(other, job, run_in)
            for key, far in watch.found.items():
                found.setdefault(key, {}).setdefault(precision, {})[scope] = far
    for line in manifest["stages"]:
        line["floor"] = found.get(line["key"], {})
    about = {n: v for n, v in manifest.items() if n not in ("format", "version", "stages")}
    dumps.write_manifest(path, about, manifest["stages"])


class EveryCall:
    """A watcher that counts: ``observe`` gets the number of the call, from 0, with each stage."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}

    def __call__(self, name: str, value: Any, _: Any) -> Any:
        """Called by :func:`tracing.record`."""
        call = self.calls[name] = self.calls.get(name, -1) + 1
        return self.observe(name, call, value)

    def observe(self, name: str, call: int, value: Any) -> Any:
        """What it returns, unless None, replaces ``value``."""
        raise NotImplementedError


class _Measure(EveryCall):
    """Distances of a run from a dump. A "single" run continues with the dump's tensors."""

    def __init__(self, reference: Dump, single: bool, held: dict[str, np.ndarray] | None):
        super().__init__()
        self.reference, self.single, self.held = reference, single, held
        self.found: dict[str, dict[str, float]] = {}

    def expected(self, entry: Entry) -> np.ndarray:
        """A stage of the dump; small dumps are read once for all runs."""
        if self.held is None:
            return entry.read()
        if entry.key not in self.held:
            self.held[entry.key] = entry.read()
        return self.held[entry.key]

    def observe(self, name: str, call: int, value: Any) -> Any:
        """Measure a stage."""
        entry = self.reference.get(name, call)
        if entry is None or entry.exact or entry.shape != np.shape(value):
            return None
        expected = self.expected(entry)
        self.found[entry.key] = floor_of(distance(np.asarray(value), expected, ulp=False))
        return like(expected, value) if self.single else None


def like(array: np.ndarray, other: Any) -> np.ndarray:
    """The values of ``array`` as an array of the kind of ``other``."""
    if isinstance(other, Rounded):
        return rounded(array, other.rounding)
    return np.asarray(array, other.dtype)


def floor_of(far: Distance) -> dict[str, float]:
    """The three distances that decide, for a manifest (JSON has no infinity)."""
    three = {"nmse": far.nmse, "cosine_error": far.cosine_error, "max_error": far.max_error}
    return {n: float(min(v, 1e30)) if np.isfinite(v) else 1e30 for n, v in three.items()}


deprecated.old_names(globals())
