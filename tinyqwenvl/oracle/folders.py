"""Files of PyTorch: ``.pt``, and folders of recorded calls, one per call of a module.

:func:`record_calls` writes them, :func:`read_folder` and :func:`write_folder` read and write the
whole. Only tensors and plain containers are ever loaded.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from ..cli import write_text
from ..config import read_json
from ..errors import UserError
from ..tracing import current_name
from .dump import INPUTS, Dump, Entry, current_argument, key_of, make_dump
from .recorder import DTYPES, dtype_of, need_torch, settings, simple, tensors, torch
from .stages import canonical

# ------------------------------------------------------------------ .pt files


def read_pt(path: Path) -> Iterator[tuple[str, str, tuple[int, ...], Callable[[], np.ndarray]]]:
    """(dotted path or "", dtype, shape, a function that reads it) of every tensor in a file.

    Only tensors and plain containers are loaded, whatever the file holds. Raises UserError.
    """
    for key, tensor in tensors(_load(path)):
        dtype = dtype_of(tensor)
        if dtype not in DTYPES or tensor.layout != torch.strided:
            raise UserError(f"{path}: {key or 'its tensor'} is {dtype}, {tensor.layout}")
        yield key, dtype, tuple(tensor.shape), functools.partial(_read_tensor, path, key)


def _load(path: Path) -> Any:
    if torch is None:
        raise UserError(f"{path} needs torch; pip install torch, or save safetensors")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged or forbidden pickle: torch has many
        reason = str(error).strip().partition("\n")[0][:200]
        raise UserError(f"{path} holds more than tensors, or is damaged: {reason}") from None


def _read_tensor(path: Path, key: str) -> np.ndarray:
    tensor = next(t for k, t in tensors(_load(path)) if k == key).detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


# ------------------------------------------------------------------ a folder of calls
#
# module_io_data/ModuleName_TIMESTAMP/metadata.json, inputs/arg_0.pt, inputs/kwarg_NAME.pt,
# outputs/output.pt; parts of a tuple are NAME_0.pt, NAME_1.pt. In metadata.json: module, class,
# timestamp, settings, inputs {"args": [...], "kwargs": {...}} and outputs, a tensor being
# {"type": "tensor", "shape", "dtype", "path"}. Ours adds "stage" and "call" where they are known.

_STAMP = "%Y%m%d_%H%M%S_%f"
_lock = threading.Lock()
_last = datetime.min


def record_calls(
    name: str, folder: str | os.PathLike = "module_io_data"
) -> Callable[[Callable], Callable]:
    """Decorate a module's ``forward``: every call of it is written to a folder of its own.

    ``@record_calls("Qwen2RMSNorm")``. Inputs are written before the call. A call that fails
    leaves no folder.
    """
    need_torch()

    def decorate(forward: Callable) -> Callable:
        @functools.wraps(forward)
        def call(*args: Any, **kwargs: Any) -> Any:
            module = args[0] if args and isinstance(args[0], torch.nn.Module) else None
            given = args if module is None else args[1:]
            with _call_folder(Path(folder), name) as (directory, metadata):
                metadata["class"] = type(module).__name__
                metadata["settings"] = {} if module is None else _settings_with_config(module)
                metadata["inputs"] = {
                    "args": [_save(v, directory, f"inputs/arg_{i}") for i, v in enumerate(given)],
                    "kwargs": {
                        n: _save(v, directory, f"inputs/kwarg_{n}") for n, v in kwargs.items()
                    },
                }
                output = forward(*args, **kwargs)
                metadata["outputs"] = _save(output, directory, "outputs/output")
            return output

        return call

    return decorate


def _settings_with_config(module: Any) -> dict[str, Any]:
    config: Any = getattr(module, "config", None)
    known = config.to_dict() if hasattr(config, "to_dict") else {}
    return {**simple(known), **settings(module)}


@contextmanager
def _call_folder(folder: Path, name: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A new folder and its metadata, which is written last: a folder without it is not a call's."""
    try:
        directory, stamp = _new_folder(folder, _file_name(name))
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from None
    metadata: dict[str, Any] = {"module": name, "timestamp": stamp.isoformat()}
    try:
        yield directory, metadata
        text = json.dumps(metadata, indent=2, allow_nan=False) + "\n"
        write_text(str(directory / "metadata.json"), text)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def _new_folder(folder: Path, name: str) -> tuple[Path, datetime]:
    """``name_TIMESTAMP``, later than all others of this process, and new."""
    global _last
    with _lock:
        stamp = max(datetime.now(), _last + timedelta(microseconds=1))
        for later in itertools.count():
            _last = stamp + timedelta(microseconds=later)
            directory = folder / f"{name}_{_last.strftime(_STAMP)}"
            try:
                directory.mkdir(parents=True)
            except FileExistsError:
                if directory.exists():
                    continue  # another process's
                raise
            break
    for part in ("inputs", "outputs"):
        (directory / part).mkdir()
    return directory, _last


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)[:150] or "_"


def _save(value: Any, directory: Path, stem: str) -> Any:
    """Save the tensors in a value, one file each; returns its entry in metadata.json."""
    if isinstance(value, torch.Tensor):
        part, _, name = stem.partition("/")
        file = directory / part / f"{_file_name(name)}.pt"
        try:  # a clone: a view would take its whole storage along
            torch.save(value.detach().cpu().clone(), file)
        except (OSError, RuntimeError) as error:
            raise UserError(f"cannot write {file}: {str(error).partition(chr(10))[0]}") from None
        known = {"type": "tensor", "shape": list(value.shape), "dtype": str(value.dtype)}
        return known | {"path": f"{directory.parent.name}/{directory.name}/{part}/{file.name}"}
    if isinstance(value, Mapping):
        return {str(n): _save(item, directory, f"{stem}_{n}") for n, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_save(item, directory, f"{stem}_{i}") for i, item in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name, None) for f in dataclasses.fields(value)}
        return _save(fields, directory, stem)
    return simple(value)


def read_folder(path: str | os.PathLike) -> Dump:
    """A folder of recorded calls as a dump, in the order of their time.

    The name of a stage is the one in metadata.json if it holds one, else the module's name.
    """
    need_torch()
    folder = Path(path)
    entries: list[Entry] = []
    calls: dict[str, int] = {}
    found = [(_stamp_of(m.parent.name), m.parent) for m in folder.glob("*/metadata.json")]
    for _, directory in sorted(found):
        metadata = read_json(directory / "metadata.json", required=True)
        name, call = metadata.get("stage"), metadata.get("call")
        if not isinstance(name, str) or type(call) is not int:
            known = [name, metadata.get("module"), re.sub(r"_\d{8}_\d{6}.*", "", directory.name)]
            name = canonical(next(n for n in known if isinstance(n, str)))
            call = calls[name] = calls.get(name, -1) + 1
        name = current_name(name)
        entries += _call_entries(directory, metadata, name, call)
    dump = make_dump(str(folder), entries)
    if nothing := [str(p.name) for _, p in found if not any((p / "outputs").glob("*.pt"))]:
        dump.notes.append(f"{len(nothing)} calls gave no tensors, including {sorted(nothing)[0]}")
    return dump


def _stamp_of(name: str) -> str:
    stamp = re.search(r"\d{8}_\d{6}(_\d+)?$", name)
    return stamp[0] if stamp else ""


def _call_entries(
    directory: Path, metadata: dict[str, Any], name: str, call: int
) -> Iterator[Entry]:
    """One call: its outputs and its inputs."""
    inputs = metadata.get("inputs")
    made_of: dict[str, str] = {}
    for argument, file in _files(directory / "inputs", inputs if isinstance(inputs, dict) else {}):
        for key, dtype, shape, load in read_pt(file):
            argument = current_argument(argument)
            argument_key = f"{argument}.{key}" if key else argument
            made_of[argument_key] = f"{INPUTS}{key_of(name, call)}/{argument_key}"
            yield Entry(made_of[argument_key], 0, shape, dtype, load)
    settings = metadata.get("settings")
    info = {"inputs": made_of, "settings": settings if isinstance(settings, dict) else {}}
    first = True
    for output, file in _files(directory / "outputs", {"": metadata.get("outputs")}):
        for key, dtype, shape, load in read_pt(file):
            path = ".".join(part for part in (output, key) if part)
            yield Entry(name if first else f"{name}.{path}", call, shape, dtype, load, info)
            first = False


def _files(folder: Path, reported: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """(dotted argument, file) of a part of a call; only files that lie in ``folder`` itself."""
    named: dict[str, str] = {}

    def walk(value: Any, path: tuple[str, ...]) -> None:
        if isinstance(value, dict) and value.get("type") == "tensor" and "path" in value:
            file = str(value["path"]).replace("\\", "/").rpartition("/")[2]
            named[file] = ".".join(part for part in path if part)
        elif isinstance(value, (dict, list)):
            for name, item in value.items() if isinstance(value, dict) else enumerate(value):
                walk(item, (*path, str(name)))

    try:
        for name, value in reported.items():
            walk(value, () if name in ("args", "kwargs") else (name,))
    except RecursionError:
        raise UserError(f"{folder.parent}: its metadata.json is nested too deep") from None
    for file in sorted(folder.glob("*.pt"), key=lambda f: (f.name not in named, _natural(f.name))):
        reported_name = named.get(file.name, "")
        if file.name.startswith("arg_"):
            reported_name = file.stem.replace("_", ".").replace("arg.", "arg_", 1)
        elif not reported_name and folder.name == "inputs":
            reported_name = file.stem.removeprefix("kwarg_")
        elif not reported_name and file.stem != "output":
            reported_name = file.stem.removeprefix("output_")
        yield reported_name, file


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts output_10 after output_9."""
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in re.split(r"(\d+)", name)]


def write_folder(dump: Dump, path: str | os.PathLike) -> Path:
    """Write a dump as a folder of calls, as :func:`record_calls` does; returns the folder."""
    need_torch()
    folder = Path(path)
    for entry in dump:
        made_of = entry.info.get("inputs")
        settings = entry.info.get("settings")
        settings = dict(settings) if isinstance(settings, Mapping) else {}
        with _call_folder(folder, entry.name) as (directory, metadata):
            metadata |= {"stage": entry.name, "call": entry.call}
            metadata |= {"class": settings.get("class"), "settings": settings}
            args: list[Any] = []
            kwargs: dict[str, Any] = {}
            for argument, key in (made_of if isinstance(made_of, Mapping) else {}).items():
                source = dump.inputs.get(key) or next((e for e in dump if e.key == key), None)
                if source is None:
                    continue
                stem = argument if re.fullmatch(r"arg_\d+", argument) else f"kwarg_{argument}"
                saved = _save(_tensor(source), directory, f"inputs/{stem}")
                if stem == argument:
                    args.append(saved)
                else:
                    kwargs[argument] = saved
            metadata["inputs"] = {"args": args, "kwargs": kwargs}
            metadata["outputs"] = _save(_tensor(entry), directory, "outputs/output")
    return folder


def _tensor(entry: Entry) -> Any:
    tensor = torch.from_numpy(np.array(entry.read()))
    return tensor.to(torch.bfloat16) if entry.dtype == "bfloat16" else tensor
