"""A dump: every stage of one run, in one safetensors file with a JSON manifest beside it.

A tensor's key is its stage's name; that of a later call ends in ``#1``, ``#2`` .... The inputs
of a stage are in ``inputs`` of the manifest: names of other tensors, or of separate tensors under
``inputs/``. Tensors are read on demand.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint import STORED_DTYPES, Spool, Stored, read_safetensors, to_bfloat16, to_float
from ..cli import write_text
from ..config import read_json
from ..errors import UserError
from ..tracing import current_name
from .stages import about, canonical

FORMAT, VERSION = "tinyqwenvl dump", 1
DTYPES = STORED_DTYPES | {  # safetensors' names
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"), "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}  # fmt: skip
_WRITTEN = {dtype for kind, dtype in DTYPES.items() if kind != "BF16"}
INPUTS = "inputs/"


def key_of(name: str, call: int = 0) -> str:
    """The key of a stage's tensor."""
    return f"{name}#{call}" if call else name


def split_key(key: str) -> tuple[str, int]:
    """The stage's name, in our names, and the number of the call."""
    name, separator, call = key.rpartition("#")
    if separator and call.isdecimal():
        return canonical(name), int(call)
    return canonical(key), 0


def current_key(key: str) -> str:
    """The current key of a tensor that version 0.1 wrote under another name."""
    if key.startswith(INPUTS):
        stage, _, argument = key.removeprefix(INPUTS).rpartition("/")
        return f"{INPUTS}{current_key(stage)}/{current_argument(argument)}"
    name, separator, call = key.partition("#")
    return f"{current_name(name)}{separator}{call}"


def current_argument(name: str) -> str:
    """The current name of a stage's argument; version 0.1 wrote ``spans``."""
    return "key_ranges" if name == "spans" else name


# ------------------------------------------------------------------ reading


@dataclass(frozen=True)
class Entry:
    """One tensor of a dump; :meth:`read` reads it."""

    name: str
    call: int
    shape: tuple[int, ...]
    dtype: str  # as stored: "float32", "bfloat16", "int64", ...
    load: Callable[[], np.ndarray]
    info: Mapping[str, Any] = field(default_factory=dict)  # its line of the manifest

    @property
    def key(self) -> str:
        """``NAME`` or ``NAME#CALL``."""
        return key_of(self.name, self.call)

    @property
    def exact(self) -> bool:
        """Whether it must be equal bit by bit: integers, pixels, booleans."""
        return "float" not in self.dtype

    def read(self) -> np.ndarray:
        """The tensor; bfloat16 as float32."""
        try:
            return self.load()
        except (UserError, MemoryError):
            raise
        except Exception as error:  # a file that changed, or a damaged archive
            raise UserError(f"{self.key} can no longer be read ({error}): write it again") from None

    def of(self, value: Any) -> Any:
        """The rows of a stage's whole ``value`` that this entry holds (``info["rows"]``)."""
        rows = self.info.get("rows")
        return value if rows is None else np.take(value, rows[1], axis=rows[0])

    def put(self, value: Any, ours: np.ndarray) -> np.ndarray:
        """The whole ``value`` of a stage, with ``ours`` as the rows that this entry holds."""
        rows = self.info.get("rows")
        if rows is None:
            return ours
        whole = np.array(value)
        whole[(slice(None),) * rows[0] + (np.asarray(rows[1]),)] = ours
        return whole


@dataclass
class Dump:
    """The tensors of a dump in the order of the calls, and the rest of the manifest."""

    source: str
    entries: dict[tuple[str, int], Entry]
    about: Mapping[str, Any] = field(default_factory=dict)
    inputs: dict[str, Entry] = field(default_factory=dict)  # key -> inputs that no stage gave
    notes: list[str] = field(default_factory=list)

    def get(self, name: str, call: int = 0) -> Entry | None:
        """A stage, or None; ``name`` may be one of version 0.1."""
        return self.entries.get((name, call)) or self.entries.get((current_name(name), call))

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries.values())

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, key: str) -> np.ndarray:
        """Read ``NAME``, ``NAME#CALL`` or ``inputs/...``. Raises UserError when it is not there."""
        entry = self.inputs.get(key) or self.inputs.get(current_key(key))
        entry = entry or self.entries.get(split_key(key))
        entry = entry or next((e for e in self if e.key == key), None)  # a name that we do not use
        if entry is None:
            raise UserError(f"{self.source} holds no {key}")
        return entry.read()


def make_dump(
    source: str, entries: Iterable[Entry], about: Mapping[str, Any] | None = None
) -> Dump:
    """A dump of tensors under any known names. Raises UserError if two are the same stage."""
    found: dict[tuple[str, int], Entry] = {}
    inputs: dict[str, Entry] = {}
    for entry in entries:
        if entry.name.startswith(INPUTS):
            inputs[entry.key] = entry
        elif (entry.name, entry.call) in found:
            raise UserError(f"{source} holds {entry.key} twice, under two names")
        else:
            found[entry.name, entry.call] = entry
    if not found:
        raise UserError(f"{source} holds no tensors; its keys should be the names of stages")
    return Dump(source, found, about or {}, inputs)


def read_dump_file(
    path: Path, change: Callable[[list[Entry]], tuple[list[Entry], list[str]]] | None = None
) -> Dump:
    """A safetensors file, with or without a manifest (``.json`` beside it).

    ``change``: a function applied to the entries first; returns them and notes.
    """
    stored = read_safetensors(path, None, DTYPES)
    manifest = read_manifest(path.with_suffix(".json"))
    lines = {line["key"]: line for line in manifest.get("stages", ())}
    order = {key: i for i, key in enumerate(lines)}
    entries = []
    for key in sorted(stored, key=lambda k: order.get(k, len(order))):
        load, shape, dtype = stored[key], stored[key].shape, str(DTYPES[stored[key].kind])
        line = lines.get(key, {})
        name, call = (current_key(key), 0) if key.startswith(INPUTS) else split_key(key)
        if isinstance(line.get("name"), str) and type(line.get("call")) is int:
            name, call = line["name"], line["call"]  # as it was written, whoever else uses the name
            name = name if key_of(current_name(name), call) in stored else current_name(name)
        info = _current_line(line) or ({"node": key} if key.startswith("/") else {})
        entries.append(Entry(name, call, shape, dtype, _Part(load), info))
    entries, further = change(entries) if change else (entries, [])
    dump = make_dump(str(path), entries, {k: v for k, v in manifest.items() if k != "stages"})
    notes = manifest.get("notes")
    if isinstance(notes, list):
        dump.notes = [note for note in notes if isinstance(note, str)]
    dump.notes += further
    return dump


def _current_line(line: Mapping[str, Any]) -> Mapping[str, Any]:
    """A line of a manifest, its inputs under their current names."""
    inputs = line.get("inputs", {})
    made_of = {current_argument(n): current_key(key) for n, key in inputs.items()}
    return {**line, "inputs": made_of} if inputs else line


@dataclass(frozen=True)
class _Part:
    stored: Stored

    def __call__(self) -> np.ndarray:
        array = self.stored()
        return to_float(array) if self.stored.kind == "BF16" else array


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a dump; {} if there is none, or the file is something else."""
    try:
        manifest = read_json(path)
    except UserError:  # not a manifest of ours
        return {}
    if manifest.get("format") != FORMAT:
        return {}
    if manifest.get("version") != VERSION:
        raise UserError(f"{path} is of version {manifest.get('version')}; this reads {VERSION}")
    stages = manifest.get("stages")
    if not isinstance(stages, list) or not all(map(_is_line, stages)):
        raise UserError(f"{path}: the entry of a stage is damaged; record the dump again")
    if not all(isinstance(manifest.get(n, {}), dict) for n in ("model", "options", "made_by")):
        raise UserError(f"{path} is damaged; record the dump again")
    return manifest


def _is_line(line: Any) -> bool:
    """Whether a line of a manifest is valid, as far as it is used."""
    if not isinstance(line, dict) or not isinstance(line.get("key"), str):
        return False
    inputs, floors = line.get("inputs", {}), line.get("floor", {})
    if not isinstance(inputs, dict) or not all(isinstance(v, str) for v in inputs.values()):
        return False
    if not isinstance(line.get("order", ""), str) or not isinstance(floors, dict):
        return False
    scopes = [scopes for scopes in floors.values() if isinstance(scopes, dict)]
    three = [far for scope in scopes for far in scope.values()]
    return len(scopes) == len(floors) and all(map(_is_floor, three))


def _is_floor(far: Any) -> bool:
    names = ("nmse", "cosine_error", "max_error")
    return isinstance(far, dict) and all(
        type(far.get(n)) in (int, float) and 0 <= far[n] < float("inf") for n in names
    )


def geometry(entry: Entry, dump: Dump) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Grids [images, 3] and window order [M] that a stage with rows of patches or tokens has.

    With images and videos the vision encoder runs twice: its first call is of the images. None for
    what the dump does not hold, or holds damaged.
    """
    kinds = [n for n in ("image_grid_thw", "video_grid_thw") if dump.get(n) is not None]
    if entry.name == "pixel_values_videos":
        kinds = [n for n in kinds if n == "video_grid_thw"]
    grids = dump.get(kinds[entry.call]) if entry.call < len(kinds) else None
    window = dump.get("visual.window_index", entry.call)
    return grids_of(grids), _permutation(window)


def grids_of(entry: Entry | None) -> np.ndarray | None:
    """Grids [images, 3], or None if they are missing or invalid."""
    array = None if entry is None else entry.read()
    if array is None or array.dtype.kind not in "iu" or array.size % 3 or np.any(array < 1):
        return None
    return np.reshape(array, (-1, 3))


def _permutation(entry: Entry | None) -> np.ndarray | None:
    array = None if entry is None else np.reshape(entry.read(), -1)
    if array is None or not np.array_equal(np.sort(array), np.arange(array.size)):
        return None
    return array.astype(np.int64)


# ------------------------------------------------------------------ writing


class Writer:
    """Writes a dump tensor by tensor; the file appears whole when the ``with`` block ends well.

    ``about`` describes the run in the manifest; its "model_type" decides the order of rows.
    """

    def __init__(self, path: str | os.PathLike, about: Mapping[str, Any] | None = None):
        self.path = Path(path)
        if self.path.suffix != ".safetensors":
            raise UserError(f"{self.path}: the name of a dump must end in .safetensors")
        self.about = dict(about or {})
        self.calls: dict[str, int] = {}
        self.stages: list[dict[str, Any]] = []

    def __enter__(self) -> Writer:
        beside = self.path.with_suffix(".json")
        if beside.exists() and not read_manifest(beside):
            raise UserError(f"{beside} exists and is not a manifest; give the dump another name")
        try:
            self._spool = Spool(self.path.parent)
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from None
        return self

    def add(
        self,
        name: str,
        value: Any,
        inputs: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
        dtype: str | None = None,
    ) -> str:
        """Write the next call of a stage; returns its key.

        ``inputs``: argument -> key of a tensor in this dump. ``dtype`` "bfloat16" stores float32
        as bfloat16, rounded to nearest even; everything else is stored unchanged.
        """
        call = self.calls[name] = self.calls.get(name, -1) + 1
        array, key = np.ascontiguousarray(value), key_of(name, call)
        array = np.reshape(array, np.shape(value))  # ascontiguousarray makes a number an array [1]
        self._write(key, array, dtype)
        what = about(name, self.about.get("model_type", ""))
        line: dict[str, Any] = {"sequence": len(self.stages), "name": name, "call": call}
        line |= {"key": key, "shape": list(array.shape), "dtype": dtype or str(array.dtype)}
        line |= {"axes": list(what.axes), "order": what.order}
        line |= {"kind": "float" if array.dtype.kind == "f" else "exact"}
        line |= {"statistics": statistics(array), "inputs": dict(inputs or {})}
        self.stages.append(line | ({"settings": dict(settings)} if settings else {}))
        return key

    def add_input(self, stage: str, argument: str, value: Any, dtype: str | None = None) -> str:
        """Write an input of a stage that no other stage gave; returns its key."""
        key = f"{INPUTS}{stage}/{argument}"
        self._write(key, np.reshape(np.ascontiguousarray(value), np.shape(value)), dtype)
        return key

    def _write(self, key: str, array: np.ndarray, stored_as: str | None) -> None:
        if key in self._spool:
            raise UserError(f"{key} would be twice in {self.path}; give one of them another name")
        dtype = array.dtype.newbyteorder("<") if array.dtype.itemsize > 1 else array.dtype
        if dtype not in _WRITTEN or stored_as not in (None, str(array.dtype), "bfloat16"):
            raise UserError(f"{key} has dtype {stored_as or array.dtype}, which a dump cannot hold")
        data = to_bfloat16(array) if stored_as == "bfloat16" else array.astype(dtype, copy=False)
        try:
            self._spool.add(key, data.dtype, array.shape, [data])
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from None

    def __exit__(self, kind: Any, error: Any, _: Any) -> None:
        try:
            if kind is None:
                self._spool.save(self.path)
                write_manifest(self.path, self.about, self.stages)
        except OSError as failure:
            reason = failure.strerror or failure
            raise UserError(f"cannot write {self.path}: {reason}") from None
        finally:
            self._spool.close()


def write_manifest(path: Path, about: Mapping[str, Any], stages: list[dict[str, Any]]) -> None:
    """Write the manifest of the dump ``path``: what it is about, and one line per stage."""
    head = {"format": FORMAT, "version": VERSION, **about}
    lines = ",\n  ".join(json.dumps(stage, allow_nan=False) for stage in stages)
    whole = json.dumps(head, indent=1)[:-2] + f',\n "stages": [\n  {lines}\n ]\n}}\n'
    write_text(str(path.with_suffix(".json")), whole)


def statistics(array: np.ndarray) -> dict[str, Any]:
    """Minimum, maximum, mean and standard deviation of the finite values; how many are not."""
    flat = np.reshape(array, -1)
    finite = flat
    if flat.dtype.kind == "f" and not np.all(np.isfinite(flat)):
        finite = flat[np.isfinite(flat)]
    found: dict[str, Any] = {"non_finite": int(flat.size - finite.size)}
    if finite.size:
        found |= {"min": float(np.min(finite)), "max": float(np.max(finite))}
        found |= {"mean": float(np.mean(finite, dtype=np.float64))}
        found |= {"std": float(np.std(finite, dtype=np.float64))}
    return found
