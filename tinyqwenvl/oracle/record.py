"""Running a prompt stage by stage, and writing down all of it: the reference of a comparison."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__, chat, decoder, sampling
from ..checkpoint import parameter_count
from ..config import Config
from ..errors import UserError
from ..model import Inputs, Model
from ..nn import KVCache
from ..tracing import current_name, watching
from ..tracing import record as show
from . import dump as dumps
from .dump import Dump, Writer, key_of
from .metrics import Distance, distance
from .precision import Rounded, in_precision, inputs_in, rounded
from .stages import BEGINNINGS

SMALL = 100_000_000  # weights up to which noise floors are measured unasked
MEASURED = ("float32", "float16", "bfloat16", "int8")
LARGEST_GRID = 100_000  # patches on a side, or pairs of frames
LIMITS = ("min_pixels", "max_pixels")
FLAGS = ("parse_special", "add_vision_id")
MEDIA = ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw")


# ------------------------------------------------------------------ what a run begins with


@dataclass(frozen=True)
class Job:
    """A prompt: messages, or ids and patches that somebody else prepared (or messages, and the
    patches of what is in them).

    After it ``tokens`` ids are generated, or those of ``forced`` taken.
    """

    messages: Sequence[dict[str, Any]] | None = None
    media: Mapping[str, Any] = field(default_factory=dict)  # with input_ids or messages
    tokens: int = 0
    forced: Sequence[int] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # of Model.prepare: LIMITS and FLAGS

    def inputs(self, model: Model) -> Inputs:
        """Ready for the model; every stage up to there is recorded."""
        if self.messages is not None and not self.media:
            return model.prepare(self.messages, **self.options)
        media = dict(self.media)
        media |= {name: show(name, media[name]) for name in MEDIA if name in media}
        if self.messages is not None:
            flags = {name: self.options[name] for name in FLAGS if name in self.options}
            return model.prompt(self.messages, media, **flags)
        ids = show("input_ids", np.asarray(media.pop("input_ids")))
        positions, delta = model.positions(ids, media)
        return Inputs(ids, positions, delta, **media)


def job_from_file(dump: Dump, config: Config) -> Job:
    """The job of a dump that holds what a run begins with: input_ids, pixel_values, grids.

    Raises UserError when it does not, or when what it holds cannot be.
    """
    try:
        return _job(dump, config)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{dump.source}: its prompt is damaged ({error}); record it again"
        ) from None


def _job(dump: Dump, config: Config) -> Job:
    if dump.get("input_ids") is None:
        raise UserError(f"{dump.source} holds no input_ids; they are needed to run the model")
    forced, told = generated(dump, config), dump.about.get("messages")
    options = checked_options(dump.about.get("options", {}))
    if told is not None:
        told = _checked(told, [e for e in dump if e.name == "image.rgb"])
    if told is not None and not _clips(told):
        return Job(told, tokens=len(forced), forced=forced, options=options)
    names = (*MEDIA, "input_ids")
    media: dict[str, Any] = {n: e.read() for n in names if (e := dump.get(n)) is not None}
    media["input_ids"] = np.reshape(media["input_ids"], -1)
    if (seconds := dump.get("second_per_grid_ts")) is not None:
        media["second_per_grid_ts"] = tuple(seconds.read().reshape(-1).tolist())
    _check(dump.source, media, config)
    if told is not None:
        media.pop("input_ids")
        return Job(told, media, len(forced), forced, options)
    return Job(None, media, tokens=len(forced), forced=forced)


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a job. Raises UserError for one that a manifest cannot hold."""
    for name, value in options.items():
        kinds = (bool,) if name in FLAGS else (int, type(None)) if name in LIMITS else ()
        if type(value) not in kinds:
            known = ", ".join((*LIMITS, *FLAGS))
            raise UserError(
                f"a prompt with the option {name} cannot be recorded; known are {known}"
            )
    return dict(options)


def generated(dump: Dump, config: Config) -> list[int]:
    """The ids that were generated in a dump. Raises UserError when they are no ids."""
    rows = config.text.vocab_size
    ids = [np.reshape(e.read(), -1) for e in dump if e.name == "generated"]
    if not all(len(i) == 1 and i.dtype.kind in "iu" and 0 <= i[0] < rows for i in ids):
        raise UserError(f"{dump.source}: generated should be one id a step, from 0 to {rows - 1}")
    return [int(i[0]) for i in ids]


def following(reference: Dump, candidate: Dump, config: Config) -> Job:
    """The reference's job, with the ids that a candidate generated, where it holds them."""
    job, theirs = job_from_file(reference, config), generated(candidate, config)
    return replace(job, forced=theirs, tokens=min(job.tokens, len(theirs))) if theirs else job


def _clips(messages: Sequence[dict[str, Any]]) -> bool:
    return any(chat.media_kind(item) == "video" for item in chat.all_items(messages))


def _check(source: str, media: dict[str, Any], config: Config) -> None:
    """Shapes of what a porter made: each mistake gets its own line."""
    vision = config.vision
    width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    ids = media["input_ids"]
    if ids.dtype.kind not in "iu" or not len(ids):
        raise UserError(f"{source}: input_ids should be whole numbers, at least one")
    for pixels, grids in zip(MEDIA[::2], MEDIA[1::2], strict=True):
        if (pixels in media) != (grids in media):
            raise UserError(f"{source}: {pixels} and {grids} belong together")
        if pixels not in media:
            continue
        grid = media[grids]
        if grid.dtype.kind not in "iu" or grid.size % 3 or grid.shape[-1:] != (3,):
            raise UserError(f"{source}: {grids} should be whole numbers, [images, 3]")
        grid = media[grids] = np.reshape(grid, (-1, 3))
        if not len(grid) or np.any(grid < 1) or np.any(grid > LARGEST_GRID):
            raise UserError(f"{source}: {grids} should be from 1 to {LARGEST_GRID:,}")
        if np.any(grid[:, 1:] % vision.spatial_merge_size):
            raise UserError(f"{source}: rows and columns of {grids} should be even")
        found = media[pixels] = np.squeeze(media[pixels]).astype(np.float32, copy=False)
        patches = int(np.sum(np.prod(grid, axis=1)))
        if found.shape != (patches, width):
            raise UserError(
                f"{source}: {pixels} is {list(found.shape)}, but {grids} makes it "
                f"{[patches, width]}"
            )


def _checked(messages: Any, images: Sequence[Any]) -> list[dict[str, Any]]:
    """Messages of a manifest, images in place of their numbers; nothing else is opened."""

    def item_of(item: dict[str, Any]) -> dict[str, Any]:
        if item.get("type") == "image":
            limits = {n: item[n] for n in LIMITS if n in item}
            number = item["picture"] if "picture" in item else item["image"]  # version 0.1; today
            return {"type": "image", "image": images[number].read()} | limits
        if item.get("type") == "video":
            return {"type": "video"}
        return {"type": "text", "text": str(item["text"])}

    told = [
        {"role": str(m["role"]), "content": [item_of(item) for item in m["content"]]}
        for m in messages
    ]
    if not told:
        raise ValueError("no messages")
    return told


def tell(messages: Sequence[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Messages for the manifest, images by their number."""
    told: list[dict[str, Any]] = []
    count = 0
    for message in messages or ():
        items: list[dict[str, Any]] = []
        for item in chat.content_items(message):
            kind = chat.media_kind(item)
            if kind == "video":
                items.append({"type": "video"})
            elif kind == "image":
                limits = {n: item[n] for n in LIMITS if n in item}
                items.append({"type": "image", "image": count} | limits)
                count += 1
            else:
                items.append({"type": "text", "text": item["text"]})
        told.append({"role": message["role"], "content": items})
    return told if messages is not None else None


# ------------------------------------------------------------------ one run


def run(model: Model, job: Job, precision: str | None = None) -> None:
    """Everything from the prompt to the last token; whoever watches sees every stage.

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
) -> Dump:
    """Run a prompt and write a dump of all stages whose name fits one of the globs ``stages``.

    ``inputs``: write what a stage was made of too, where no other stage gave it. ``floors``: the
    number formats whose noise is measured (None: all of them for models of up to 100 million
    weights, else none). ``source`` says which checkpoint it is. Returns the dump, open.
    """
    path = Path(path)
    about = {
        "made_by": {"tinyqwenvl": __version__, "numpy": np.__version__},
        "model_type": model.config.model_type,
        "model": {"source": source, "fingerprint": fingerprint(model.config)},
        "dtype": np.dtype(model.dtype).name,
        "messages": tell(job.messages),
        "options": checked_options(job.options),
    }
    with Writer(path, about) as writer, watching(_Keep(writer, stages, inputs)):
        run(model, job)
    if floors is None:
        floors = MEASURED if parameter_count(model.config) <= SMALL else ()
    if floors:
        measure_floors(model, path, floors)
    return dumps.read_dump_file(path)


def fingerprint(config: Config) -> str:
    """Twelve digits that tell one model's shape from another's."""
    said = repr((config.model_type, config.vision, config.text))
    return hashlib.sha256(said.encode()).hexdigest()[:12]


class _Keep:
    """A watcher that writes the chosen stages, and by name what each was made of."""

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
    """Add to a dump's manifest how far rounding alone moves each stage.

    For "float32" the dump is compared with a float64 run; the others are run themselves and
    compared with the dump. "entire": of the whole run up to the stage; "single": of the stage
    alone, when what goes into it is the dump's.
    """
    reference = dumps.read_dump_file(path)
    manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    job = job_from_file(reference, model.config)
    found: dict[str, dict[str, Any]] = {}
    for precision in precisions:
        # A float32 dump is held against the truth; one of the truth against float32.
        truth = precision == "float32" and np.dtype(model.dtype) == np.float32
        run_in = "float64" if truth else precision
        other = in_precision(model, run_in)
        for scope in ("entire", "single"):
            watch = _Measure(reference, scope == "single")
            with watching(watch), np.errstate(over="ignore", invalid="ignore"):
                run(other, job, run_in)
            for key, far in watch.found.items():
                found.setdefault(key, {}).setdefault(precision, {})[scope] = far
    for line in manifest["stages"]:
        line["floor"] = found.get(dumps.current_key(line["key"]), {})
    about = {n: v for n, v in manifest.items() if n not in ("format", "version", "stages")}
    dumps.write_manifest(path, about, manifest["stages"])


class EveryCall:
    """A watcher that counts: :meth:`see` gets the number of the call, from 0, with each stage."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}

    def __call__(self, name: str, value: Any, _: Any) -> Any:
        """Called by :func:`tracing.record`."""
        call = self.calls[name] = self.calls.get(name, -1) + 1
        return self.observe(name, call, value)

    def observe(self, name: str, call: int, value: Any) -> Any:
        """What it returns, unless None, takes the place of ``value``."""
        raise NotImplementedError


class _Measure(EveryCall):
    """Distances of a run from a dump. A single run goes on with what the dump holds."""

    def __init__(self, reference: Dump, single: bool):
        super().__init__()
        self.reference, self.single = reference, single
        self.found: dict[str, dict[str, float]] = {}

    def observe(self, name: str, call: int, value: Any) -> Any:
        """Measure a stage."""
        entry = self.reference.get(name, call)
        if entry is None or entry.exact or entry.shape != np.shape(value):
            return None
        expected = entry.read()
        self.found[entry.key] = floor_of(distance(np.asarray(value), expected))
        return like(expected, value) if self.single else None


def like(array: np.ndarray, other: Any) -> np.ndarray:
    """The numbers of ``array`` as an array of the kind of ``other``."""
    if isinstance(other, Rounded):
        return rounded(array, other.rounding)
    return np.asarray(array, other.dtype)


def floor_of(far: Distance) -> dict[str, float]:
    """The three distances that decide, for a manifest (JSON has no infinity)."""
    three = {"nmse": far.nmse, "cosine_error": far.cosine_error, "max_error": far.max_error}
    return {n: float(min(v, 1e30)) if np.isfinite(v) else 1e30 for n, v in three.items()}
