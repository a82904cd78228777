"""Open the files of ports: safetensors, npz, a folder of npy, raw .bin with shapes, .pt.

We never load a pickle: npy and npz with Python objects are refused, and .pt goes through
torch's ``weights_only`` loader. A compressed file is never unpacked beyond its declared size.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..checkpoint import BFLOAT16, to_float
from ..config import read_json, read_text
from ..errors import UserError
from .dump import Dump, Entry, make_dump, read_dump_file, split_key
from .nodes import stages_of

LARGEST = 1 << 36  # bytes of one tensor
_HEADERS: dict[tuple[int, int], Callable] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def open_dump(source: str | Path, names: Mapping[str, str] | None = None) -> Dump:
    """Open a dump of any kind; ``names`` maps its unknown names to ours.

    Raises UserError, in one line, for what is missing, damaged, or holds pickled objects.
    """
    path = Path(source)
    try:
        there = str(source) != "" and path.exists()
    except (OSError, ValueError):  # a name too long, or with a zero byte
        there = False
    if not there:
        raise UserError(f"{str(source)[:200] or 'an empty name'}: no such dump")
    if not (path.is_file() or path.is_dir()):
        raise UserError(f"{path} is neither a file nor a folder")
    try:
        dump = _open(path)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # damaged archives and headers may raise anything
        reason = str(error) or type(error).__name__
        raise UserError(f"{path} cannot be read: {reason}; write it again") from None
    return renamed(dump, names) if names else dump


def _open(path: Path) -> Dump:
    if path.is_dir():
        return _open_folder(path)
    kind = path.suffix.lower()
    if kind == ".safetensors":
        return read_dump_file(path, partial(stages_of, ordered=False))
    if kind == ".npz":
        return _made(path, _npz(path))
    if kind == ".npy":
        return make_dump(str(path), [_npy(path, path.stem)])
    if kind in (".pt", ".pth"):
        return _made(path, _torch(path))
    if kind == ".bin":
        return make_dump(str(path), [_raw(path, path.stem, _beside(path))])
    raise UserError(
        f"{path} is not a dump: known are .safetensors, .npz, .npy, .bin, .pt, and folders of them"
    )


def renamed(dump: Dump, names: Mapping[str, str]) -> Dump:
    """The same tensors under the names that ``names`` gives (theirs -> ours)."""
    unused = [n for n in names if dump.get(*split_key(n)) is None]
    if unused:
        raise UserError(f"{dump.source} holds no {unused[0]}, which the map has")
    ours = {split_key(theirs): split_key(here) for theirs, here in names.items()}
    entries = []
    for entry in dump:
        name, call = ours.get((entry.name, entry.call), (entry.name, entry.call))
        entries.append(Entry(name, call, entry.shape, entry.dtype, entry.load, entry.info))
    again = make_dump(dump.source, entries, dump.about)
    again.inputs, again.notes = dump.inputs, dump.notes
    return again


def read_map(path: str | Path) -> dict[str, str]:
    """A JSON object: their name -> ours."""
    names = read_json(Path(path), required=True)
    if not all(isinstance(value, str) for value in names.values()):
        raise UserError(f"{path} should map names of tensors to names of stages, all text")
    return names


# ------------------------------------------------------------------ one reader per format


def _entry(key: str, shape: tuple[int, ...], dtype: Any, load: Callable[[], np.ndarray]) -> Entry:
    name, call = split_key(key)
    node = {"node": key.partition("#")[0]} if key.startswith("/") else {}
    return Entry(name, call, shape, str(dtype), load, node)


def _made(path: Path, entries: Iterable[Entry], ordered: bool = True) -> Dump:
    """A dump of tensors under any names; nodes of a graph become stages."""
    found, notes = stages_of(entries, ordered)
    dump = make_dump(str(path), found)
    dump.notes += notes
    return dump


def _header(file: BinaryIO, key: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether columns come first, and dtype of an npy stream, which is then at its data."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise UserError(f"{key} is an npy of version {version[0]}; save it as version 1 or 2")
    shape, fortran, dtype = _HEADERS[version](file)
    if not all(type(n) is int and n >= 0 for n in shape):
        raise UserError(f"{key} has an invalid shape: {shape}")
    if dtype.hasobject:
        raise UserError(f"{key} holds pickled Python objects, which are never loaded; save arrays")
    if math.prod(shape) * dtype.itemsize > LARGEST:
        raise UserError(f"{key} would be over {LARGEST >> 30} GB; save it in parts")
    return shape, fortran, dtype


def _numbers(array: np.ndarray) -> np.ndarray:
    """bfloat16, which npy stores as two raw bytes, as float32; everything else unchanged."""
    if array.dtype == np.dtype("V2"):
        return to_float(array.view(BFLOAT16))
    return array


def _dtype_name(dtype: np.dtype, key: str) -> str:
    if dtype == np.dtype("V2"):
        return "bfloat16"
    if dtype.kind not in "fiub":
        raise UserError(f"{key} is of dtype {dtype}; save floating point numbers or integers")
    return str(dtype.newbyteorder("="))


def _npy(path: Path, key: str) -> Entry:
    with path.open("rb") as file:
        shape, _, dtype = _header(file, key)
        if path.stat().st_size - file.tell() != math.prod(shape) * dtype.itemsize:
            raise UserError(f"{path} is cut off: its data does not fill its shape; write it again")

    def load() -> np.ndarray:
        return _numbers(np.load(path, mmap_mode="r" if shape else None, allow_pickle=False))

    return _entry(key, shape, _dtype_name(dtype, key), load)


def _npz(path: Path) -> Iterator[Entry]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.filename.endswith(".npy"):
                raise UserError(f"{path}: {info.filename[:100]} in it is not an array")
            with archive.open(info) as file:
                key = info.filename.removesuffix(".npy")
                shape, fortran, dtype = _header(file, key)  # type: ignore[arg-type]
                size = math.prod(shape) * dtype.itemsize
                if info.file_size - file.tell() != size:
                    raise UserError(f"{path}: {key} is cut off: its data does not fill its shape")
            load = _Member(path, info.filename, shape, fortran, dtype)
            yield _entry(key, shape, _dtype_name(dtype, key), load)


class _Member:
    """One array of an npz; reads just the bytes that its shape needs."""

    def __init__(self, path: Path, member: str, shape: tuple, fortran: bool, dtype: np.dtype):
        self.path, self.member = path, member
        self.shape, self.fortran, self.dtype = shape, fortran, dtype

    def __call__(self) -> np.ndarray:
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
            _header(file, self.member)  # type: ignore[arg-type]
            size = math.prod(self.shape) * self.dtype.itemsize
            data = file.read(size)
        if len(data) != size:
            raise UserError(f"{self.path}: {self.member} is cut off; write it again")
        flat = np.frombuffer(data, self.dtype)
        return _numbers(np.reshape(flat, self.shape, order="F" if self.fortran else "C"))


_RAW = {"float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "int64": "<i8",
        "int32": "<i4", "int16": "<i2", "int8": "i1", "uint8": "u1", "bool": "?"}  # fmt: skip


def _raw(path: Path, key: str, facts: Any) -> Entry:
    """Raw values; ``facts`` is {"shape": [...], "dtype": "float32"} or just the shape."""
    if isinstance(facts, list):
        facts = {"shape": facts}
    shape, dtype = facts.get("shape"), facts.get("dtype", "float32")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise UserError(f"{path}: its shape is {str(shape)[:100]}; give a list of integers")
    if not isinstance(dtype, str) or dtype not in _RAW:
        raise UserError(f"{path}: dtype {str(dtype)[:50]} is not one of {', '.join(_RAW)}")
    size = math.prod(shape) * np.dtype(_RAW[dtype]).itemsize
    if path.stat().st_size != size:
        raise UserError(
            f"{path} has {path.stat().st_size} bytes, but {dtype} {shape} needs {size}: "
            "is it cut off, or is its shape or dtype another?"
        )

    def load() -> np.ndarray:
        array = np.fromfile(path, _RAW[dtype]).reshape(shape)
        return to_float(array.view(BFLOAT16)) if dtype == "bfloat16" else array

    return _entry(key, tuple(shape), dtype, load)


def _beside(path: Path) -> Any:
    """The shape of ``a.bin`` from ``a.json`` or from ``a.shape`` (text: 1 64 128 float32)."""
    if path.with_suffix(".json").exists():
        return read_json(path.with_suffix(".json"))
    if path.with_suffix(".shape").exists():
        words = read_text(path.with_suffix(".shape")).replace(",", " ").split()
        numbers = [int(word) for word in words if word.isdecimal()]
        named = [word for word in words if not word.isdecimal()]
        return {"shape": numbers, "dtype": named[0] if named else "float32"}
    raise UserError(f"{path} needs its shape: a file {path.stem}.json or {path.stem}.shape")


def _facts(file: Path, known: Any) -> Any:
    """The shape and dtype of a ``.bin``: from the folder's shapes.json, else from its own file."""
    facts = known.get(file.stem, known.get(file.name)) if isinstance(known, dict) else None
    return facts if facts is not None else _beside(file)


def _of_no_rows(file: Path, known: Any) -> bool:
    """Whether an empty file has an empty shape: a call that left no rows."""
    try:
        facts = _facts(file, known) if file.suffix == ".bin" else None
    except UserError:
        return False
    return isinstance(facts, dict) and 0 in (facts.get("shape") or ())


def _open_folder(path: Path) -> Dump:
    """A folder: one file per stage (npy, or bin with its shape), or recorded calls of modules."""
    if any(path.glob("*/metadata.json")):
        from .folders import read_folder

        return read_folder(path)
    shapes = path / "shapes.json"
    known: Any = json.loads(read_text(shapes)) if shapes.exists() else {}
    files = [*sorted(path.glob("*.npy")), *sorted(path.glob("*.bin"))]
    empty = [f.name for f in files if not f.stat().st_size and not _of_no_rows(f, known)]
    files = [file for file in files if file.name not in empty]
    entries = [_npy(file, file.stem) for file in files if file.suffix == ".npy"]
    for file in (file for file in files if file.suffix == ".bin"):
        entries.append(_raw(file, file.stem, _facts(file, known)))
    if not entries:
        raise UserError(f"{path} holds no .npy and no .bin files, or only empty ones")
    dump = _made(path, entries, ordered=False)
    if empty:
        dump.notes.append(f"{len(empty)} empty files left out, including {empty[0]}")
    return dump


def _torch(path: Path) -> Iterator[Entry]:
    from .folders import read_pt

    for key, dtype, shape, load in read_pt(path):
        yield _entry(key or path.stem, shape, dtype, load)
