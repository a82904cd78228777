"""Hooks on a tree of PyTorch modules: every call of each becomes a stage of a dump."""

from __future__ import annotations

import dataclasses
import fnmatch
import inspect
import math
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from ..errors import UserError
from ..tracing import current_name
from .dump import INPUTS, Writer, key_of
from .hidden import ENCODER_FIELDS, MODELS, VISION_ENCODERS, WHOLES, is_a
from .stages import BEGINNINGS

try:
    import torch
except ImportError:  # callers get a UserError
    torch = None  # type: ignore[assignment]

DTYPES = (
    "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool"
).split()


def need_torch() -> None:
    """Raise UserError where PyTorch is not installed."""
    if torch is None:
        raise UserError("this needs PyTorch: pip install torch")


class Recorder:
    """The hooks on a tree of modules, and what they have written.

    A repeated tensor is recognised by its address, as long as it is alive and unmodified.
    """

    def __init__(
        self,
        writer: Writer,
        stack: ExitStack,
        globs: Sequence[str],
        inputs: bool,
        drop_batch: bool,
        names: set[str],
    ):
        self.writer, self.stack, self.globs = writer, stack, globs
        self.inputs, self.drop_batch, self.names = inputs, drop_batch, names
        self.notes: list[str] = []
        # address -> (weak reference, state, key)
        self.known: dict[tuple, tuple[Any, int, str]] = {}
        self.begun: dict[str, int] = {}
        self.open: list[tuple[Any, dict[str, str]]] = []  # calls that have begun: their inputs

    def fits(self, name: str) -> bool:
        """Whether one of the globs matches; they may use names of version 0.1."""
        globs = {*self.globs, *map(current_name, self.globs)}
        return any(fnmatch.fnmatchcase(name, glob) for glob in globs)

    def chosen(self, name: str) -> bool:
        """Whether a stage is to be written."""
        return name in BEGINNINGS or self.fits(name)

    def note(self, line: str) -> None:
        """Add a note for the reader of the dump, once."""
        if line not in self.notes:
            self.notes.append(line)

    # -------------------------------------------------------------- hooks

    def before(self, module: Any, observe: Callable[[dict[str, Any]], None]) -> None:
        """Pass the arguments of each call of a module to ``observe``."""
        names = _argument_names(module.forward)

        def hook(_: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            observe(names(args, kwargs))

        # prepended: before any hook that refers to what ``observe`` may write
        handle = module.register_forward_pre_hook(hook, with_kwargs=True, prepend=True)
        self.stack.callback(handle.remove)

    def hook(self, name: str, module: Any) -> None:
        """Write every call of a module."""
        names = _argument_names(module.forward)

        def begin(_: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            made_of = {}
            if self.inputs:
                call = self.begun[name] = self.begun.get(name, -1) + 1
                made_of = self.keys_of(key_of(name, call), names(args, kwargs))
            self.open.append((module, made_of))

        def end(_module: Any, _args: tuple, output: Any) -> None:
            made_of: dict[str, str] = {}
            while self.open:  # calls that failed and were caught have begun but never end
                whose, made_of = self.open.pop()
                if whose is module:
                    break
            self.outputs(name, module, output, made_of)

        before = module.register_forward_pre_hook(begin, with_kwargs=True)
        self.stack.callback(before.remove)
        self.stack.callback(module.register_forward_hook(end).remove)

    def keys_of(self, stage: str, given: Mapping[str, Any]) -> dict[str, str]:
        """Argument -> the key of its tensor, which is written if it is not there yet."""
        keys: dict[str, str] = {}
        for argument, tensor in tensors(given):
            if (key := self.key(tensor)) is None:
                if (stored := self.stored(f"{INPUTS}{stage}/{argument}", tensor)) is None:
                    continue
                key = self.writer.add_input(stage, argument, *stored)
                self.remember(tensor, key)
            keys[argument] = key
        return keys

    def outputs(self, name: str, module: Any, output: Any, made_of: Mapping[str, str]) -> None:
        """Write the output of a call."""
        found = dict(tensors(output))
        if is_a(module, MODELS + WHOLES):
            found = {p: t for p, t in found.items() if p.partition(".")[0] not in ENCODER_FIELDS}
        first = "pooler_output" if is_a(module, VISION_ENCODERS) else "logits"
        order = sorted(found, key=lambda path: (path != first, path != "last_hidden_state"))
        for path in order:
            if path == order[0]:
                self.give(name, found[path], made_of=made_of, settings=settings(module))
            elif self.key(found[path]) is None:
                further = f"{name}.{path}"
                further = f"{name}.output.{path}" if further in self.names else further
                self.give(further, found[path], made_of=made_of)

    # -------------------------------------------------------------- tensors

    def give(
        self,
        name: str,
        tensor: Any,
        shown: Any = None,
        made_of: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the next call of a stage: ``tensor``, in the shape of ``shown`` if it is given."""
        stored = self.stored(name, tensor if shown is None else shown)
        if stored is not None:
            array, dtype = stored
            self.remember(tensor, self.writer.add(name, array, made_of, settings, dtype))

    def observe(self, name: str, tensor: Any, shown: Any = None, once: bool = False) -> None:
        """Write a tensor that no module returns; ``once``: unless it was written already."""
        if not self.chosen(name) or not isinstance(tensor, torch.Tensor):
            return
        if not once or self.key(tensor) is None:
            self.give(name, tensor, shown)

    def stored(self, name: str, tensor: Any) -> tuple[np.ndarray, str] | None:
        """An array and the dtype to store it as (bfloat16: float32 of the same values), or None."""
        dtype = dtype_of(tensor)
        if dtype not in DTYPES or tensor.layout != torch.strided or tensor.device.type == "meta":
            self.note(f"{name} is left out: a dump cannot hold {dtype}, {tensor.layout}")
            return None
        tensor = tensor.detach()
        if self.drop_batch and tensor.dim() >= 3 and tensor.shape[0] == 1:
            tensor = tensor[0]
        plain = tensor.float() if dtype == "bfloat16" else tensor
        return plain.numpy(force=True), dtype

    def remember(self, tensor: Any, key: str) -> None:
        """Remember a tensor's key."""
        if not tensor.numel():
            return
        address = _address(tensor)

        def forget(_: Any) -> None:  # not called for a reference that another has replaced
            self.known.pop(address, None)

        self.known[address] = weakref.ref(tensor, forget), _state(tensor), key

    def key(self, tensor: Any) -> str | None:
        """The key of a tensor that was written."""
        reference, state, key = self.known.get(_address(tensor), (lambda: None, 0, ""))
        return key if reference() is not None and _state(tensor) == state else None


def _address(tensor: Any) -> tuple:
    return (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)


def _state(tensor: Any) -> int:
    """Changes if the tensor was modified in place."""
    if not tensor.is_inference():
        return tensor._version
    flat = tensor.detach().reshape(-1).contiguous().view(torch.uint8)
    return zlib.crc32(flat.numpy(force=True))


def dtype_of(tensor: Any) -> str:
    """The name of a tensor's dtype: "bfloat16"."""
    return str(tensor.dtype).removeprefix("torch.")


def _argument_names(function: Callable) -> Callable[[tuple, dict[str, Any]], dict[str, Any]]:
    """A function that turns the arguments of a call into name -> value."""
    try:
        signature: inspect.Signature | None = inspect.signature(function)
    except (TypeError, ValueError):  # a compiled one
        signature = None
    kinds = {n: p.kind for n, p in signature.parameters.items()} if signature else {}

    def names(args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
        try:
            given = signature.bind(*args, **kwargs).arguments if signature else None
        except TypeError:
            given = None
        if given is None:
            return {f"arg_{i}": value for i, value in enumerate(args)} | kwargs
        further = [n for n, kind in kinds.items() if kind is inspect.Parameter.VAR_KEYWORD]
        for name in further:
            given |= given.pop(name, {})
        return dict(given)

    return names


def tensors(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every tensor in tuples, lists, dicts and dataclasses, under its dotted path."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, (tuple, list)):
        items = enumerate(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = [(f.name, getattr(value, f.name, None)) for f in dataclasses.fields(value)]
    for name, item in items:
        yield from tensors(item, f"{path}.{name}" if path else str(name))


def settings(module: Any) -> dict[str, Any]:
    """The class of a module and its simple attributes: eps, num_heads, scaling ...."""
    found = {
        name: simple(value)
        for name, value in vars(module).items()
        if not name.startswith("_") and name != "training" and _is_simple(value)
    }
    text = module.extra_repr()
    return found | {"class": type(module).__name__} | ({"repr": text} if text else {})


def _is_simple(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return len(value) <= 64 and all(isinstance(v, (bool, int, float, str)) for v in value)
    return isinstance(value, (bool, int, float, str))


def simple(value: Any) -> Any:
    """For JSON: anything that is not simple becomes text."""
    if isinstance(value, Mapping):
        return {str(name): simple(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [simple(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return str(value)[:1000]
