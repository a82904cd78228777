"""PyTorch: a dump of any tree of modules, and folders of recorded calls.

:func:`instrument` is for Qwen2-VL and Qwen2.5-VL in Hugging Face transformers (or in anything whose
names are like theirs): every call of every module, under our names, and the tensors that hooks
cannot see (:mod:`.hidden`). :func:`instrument_tree` is for any other tree. Nothing in the package
outside ``oracle/`` needs torch.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import inspect
import math
import os
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from .. import __version__
from ..errors import UserError
from ..tracing import current_name
from .dump import INPUTS, Writer, key_of
from .hidden import ENCODER_FIELDS, MODELS, TEXTS, VISION_ENCODERS, WHOLES, is_a, watch_family
from .stages import BEGINNINGS, canonical

try:
    import torch
except ImportError:  # whoever calls something here is told so
    torch = None  # type: ignore[assignment]

DTYPES = (
    "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool"
).split()


def need_torch() -> None:
    """Raise UserError where PyTorch is not installed."""
    if torch is None:
        raise UserError("this needs PyTorch: pip install torch")


# ------------------------------------------------------------------ writing a dump


@contextmanager
def instrument(
    model: Any,
    target: str | os.PathLike = "ref.safetensors",
    stages: Sequence[str] = ("*",),
    inputs: bool = True,
    about: Mapping[str, Any] | None = None,
    prefix: str = "",
) -> Iterator[Writer]:
    """Write what ``model`` computes in the ``with`` block to the dump ``target``.

    ``model``: a model of transformers, or its vision encoder, its language model, a block of it.
    Every call of every module is written, in the order in which the calls end, under the name of
    the module in the published checkpoint; later calls of the same module are NAME#1, NAME#2 ....
    Of several tensors that a call gives, the first is NAME and the others NAME.1, NAME.2 ...
    (fields of a dataclass: NAME.FIELD), unless they are a stage's already. A batch of one is
    dropped: [1, S, D] is written as [S, D].

    Beside the modules stand the tensors that hooks cannot see, ``visual.window_index``,
    ``model.position_ids`` and so on. An attention mask that all layers share is written once; so is
    what a run begins with, even if every step gets it again. A later step's token is ``generated``.

    ``stages``: globs on names; what a run begins with (:data:`BEGINNINGS`) is always written.
    ``inputs``: write what each call was made of too, where no stage gave it. ``about``: more for
    the manifest. ``prefix``: the name of ``model`` itself, where it is a part that we cannot guess
    (``visual.blocks.3``). The file appears whole when the block ends well; not at all when not.
    The block gets the :class:`Writer`, to which more tensors may be added.
    """
    need_torch()
    prefix = prefix or _guess_prefix(model)
    names = _canonical_names(_module_names(model, prefix))
    with _recording(model, target, stages, inputs, about, names, True) as recorder:
        watch_family(recorder, model, names)
        yield recorder.writer


@contextmanager
def instrument_tree(
    tree: Any,
    target: str | os.PathLike = "ref.safetensors",
    stages: Sequence[str] = ("*",),
    inputs: bool = True,
    about: Mapping[str, Any] | None = None,
    prefix: str = "",
) -> Iterator[Writer]:
    """As :func:`instrument`, for any tree of modules: nothing is known about it.

    Names are those of ``named_modules`` (the root's is its class, or ``prefix``), and shapes stay
    as they are, with any batch.
    """
    need_torch()
    names = _module_names(tree, prefix)
    with _recording(tree, target, stages, inputs, about, names, False) as recorder:
        yield recorder.writer


def _guess_prefix(model: Any) -> str:
    if is_a(model, VISION_ENCODERS):
        return "visual"
    return "model" if is_a(model, TEXTS + MODELS) else ""


def _module_names(tree: Any, prefix: str) -> list[tuple[str, Any]]:
    """(name, module) of every module; one that stands in several places has its first name."""
    if not isinstance(tree, torch.nn.Module):
        raise UserError(f"a {type(tree).__name__} is not a torch.nn.Module; give the model itself")
    found = []
    for name, module in tree.named_modules():
        whole = f"{prefix}.{name}" if prefix and name else prefix or name or type(tree).__name__
        if "#" in whole or whole.startswith(INPUTS):
            raise UserError(f"a module is called {whole}, which a dump cannot hold; rename it")
        found.append((whole, module))
    return found


def _canonical_names(names: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Our names; a module whose name would be that of another keeps its own."""
    found: dict[str, Any] = {}
    for name, module in names:
        ours = canonical(name)
        found[name if ours in found else ours] = module
    return list(found.items())


@contextmanager
def _recording(
    tree: Any,
    target: str | os.PathLike,
    stages: Sequence[str],
    inputs: bool,
    about: Mapping[str, Any] | None,
    names: list[tuple[str, Any]],
    drop_batch: bool,
) -> Iterator[Recorder]:
    globs = (stages,) if isinstance(stages, str) else tuple(stages)
    told = _about(tree) | dict(about or {})
    with Writer(target, told) as writer, ExitStack() as stack:
        recorder = Recorder(writer, stack, globs, inputs, drop_batch, {n for n, _ in names})
        if any(module.training for _, module in names):
            recorder.note("the model was in training mode: dropout is at work; call model.eval()")
        for name, module in names:
            whole = module is tree and is_a(tree, WHOLES)  # what it gives is lm_head's
            if recorder.chosen(name) and not whole:
                recorder.hook(name, module)
        yield recorder
        written = {line["name"] for line in writer.stages}
        if not any(n not in BEGINNINGS or recorder.fits(n) for n in written):
            raise UserError(f"no stage ran that fits {', '.join(globs)}; see named_modules()")
        if recorder.notes:
            writer.about["notes"] = [*writer.about.get("notes", ()), *recorder.notes]


def _about(tree: Any) -> dict[str, Any]:
    """What the manifest says of a tree."""
    versions = {"tinyqwenvl": __version__, "torch": torch.__version__}
    if type(tree).__module__.startswith("transformers."):
        import transformers

        versions["transformers"] = transformers.__version__
    told: dict[str, Any] = {"made_by": versions, "model": {"class": type(tree).__name__}}
    kind = getattr(getattr(tree, "config", None), "model_type", None)
    if isinstance(kind, str):
        told["model_type"] = next((k for k in ("qwen2_5_vl", "qwen2_vl") if k in kind), kind)
    if (weight := next(tree.parameters(), None)) is not None:
        told["dtype"] = dtype_of(weight)
        told["device"] = weight.device.type
    return told


class Recorder:
    """The hooks on a tree of modules, and what they have written.

    A tensor that comes again is known by its place in memory, as long as it is alive and nobody has
    written into it.
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
        self.known: dict[tuple, tuple[Any, int, str]] = {}  # place -> (weak reference, state, key)
        self.begun: dict[str, int] = {}
        self.open: list[tuple[Any, dict[str, str]]] = []  # calls that have begun: made of what

    def fits(self, name: str) -> bool:
        """Whether one of the globs does; they may be of names of version 0.1."""
        globs = {*self.globs, *map(current_name, self.globs)}
        return any(fnmatch.fnmatchcase(name, glob) for glob in globs)

    def chosen(self, name: str) -> bool:
        """Whether a stage is to be written."""
        return name in BEGINNINGS or self.fits(name)

    def note(self, line: str) -> None:
        """Something that the reader of the dump should know, once."""
        if line not in self.notes:
            self.notes.append(line)

    # -------------------------------------------------------------- hooks

    def before(self, module: Any, observe: Callable[[dict[str, Any]], None]) -> None:
        """Show the arguments of each call of a module to ``observe``."""
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
                if (numbers := self.numbers(f"{INPUTS}{stage}/{argument}", tensor)) is None:
                    continue
                key = self.writer.add_input(stage, argument, *numbers)
                self.remember(tensor, key)
            keys[argument] = key
        return keys

    def outputs(self, name: str, module: Any, output: Any, made_of: Mapping[str, str]) -> None:
        """Write what a call gave."""
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
        numbers = self.numbers(name, tensor if shown is None else shown)
        if numbers is not None:
            array, dtype = numbers
            self.remember(tensor, self.writer.add(name, array, made_of, settings, dtype))

    def observe(self, name: str, tensor: Any, shown: Any = None, once: bool = False) -> None:
        """Write a tensor that no module gives; ``once``: unless it was written already."""
        if not self.chosen(name) or not isinstance(tensor, torch.Tensor):
            return
        if not once or self.key(tensor) is None:
            self.give(name, tensor, shown)

    def numbers(self, name: str, tensor: Any) -> tuple[np.ndarray, str] | None:
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
        """Know a tensor again."""
        if not tensor.numel():
            return
        place = _place(tensor)

        def forget(_: Any) -> None:  # not called for a reference that another has replaced
            self.known.pop(place, None)

        self.known[place] = weakref.ref(tensor, forget), _state(tensor), key

    def key(self, tensor: Any) -> str | None:
        """The key of a tensor that was written."""
        reference, state, key = self.known.get(_place(tensor), (lambda: None, 0, ""))
        return key if reference() is not None and _state(tensor) == state else None


def _place(tensor: Any) -> tuple:
    return (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)


def _state(tensor: Any) -> int:
    """Another one when somebody has written into the tensor."""
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
    said = module.extra_repr()
    return found | {"class": type(module).__name__} | ({"repr": said} if said else {})


def _is_simple(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return len(value) <= 64 and all(isinstance(v, (bool, int, float, str)) for v in value)
    return isinstance(value, (bool, int, float, str))


def simple(value: Any) -> Any:
    """For JSON: what is not simple becomes text."""
    if isinstance(value, Mapping):
        return {str(name): simple(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [simple(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return str(value)[:1000]
