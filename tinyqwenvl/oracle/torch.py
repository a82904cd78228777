"""PyTorch: a dump of any tree of modules, and folders of recorded calls.

:func:`instrument` is for Qwen2-VL and Qwen2.5-VL in Hugging Face transformers (or in anything whose
names are like theirs): every call of every module, under our names, and the tensors that hooks
cannot see. :func:`instrument_tree` is for any other tree. :func:`record_calls` and
:func:`read_folder` write and read one folder a call.

The only file that imports torch, which nothing else in the package needs.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import inspect
import itertools
import json
import math
import os
import re
import shutil
import threading
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..cli import write_text
from ..config import read_json
from ..errors import UserError
from .dump import INPUTS, Dump, Entry, Writer, key_of, make_dump
from .stages import canonical

try:
    import torch
except ImportError:  # whoever calls something here is told so
    torch = None  # type: ignore[assignment]

# What a run begins with: in every dump, whatever stages are chosen.
BEGINNINGS = (
    "input_ids",
    "generated",
    "pixel_values",
    "image_grid_thw",
    "pixel_values_videos",
    "video_grid_thw",
)
_TOWERS = ("Qwen2VisionTransformerPretrainedModel", "Qwen2_5_VisionTransformerPretrainedModel")
_TEXT = ("Qwen2VLTextModel", "Qwen2_5_VLTextModel")
_MODELS = ("Qwen2VLModel", "Qwen2_5_VLModel")  # with the tower; up to 4.51 the text model
_WHOLE = ("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration")
_DTYPES = (
    "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool"
).split()


def _need_torch() -> None:
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

    ``model``: a model of transformers, or its vision tower, its language model, a block of it.
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
    _need_torch()
    prefix = prefix or _guess_prefix(model)
    names = _canonical_names(_module_names(model, prefix))
    with _recording(model, target, stages, inputs, about, names, True) as recorder:
        _watch_family(recorder, model, names)
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
    _need_torch()
    names = _module_names(tree, prefix)
    with _recording(tree, target, stages, inputs, about, names, False) as recorder:
        yield recorder.writer


def _guess_prefix(model: Any) -> str:
    if _is(model, _TOWERS):
        return "visual"
    return "model" if _is(model, _TEXT + _MODELS) else ""


def _is(module: Any, names: Sequence[str]) -> bool:
    return any(kind.__name__ in names for kind in type(module).__mro__)


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
) -> Iterator[_Recorder]:
    globs = (stages,) if isinstance(stages, str) else tuple(stages)
    told = _about(tree) | dict(about or {})
    with Writer(target, told) as writer, ExitStack() as stack:
        recorder = _Recorder(writer, stack, globs, inputs, drop_batch, {n for n, _ in names})
        if any(module.training for _, module in names):
            recorder.note("the model was in training mode: dropout is at work; call model.eval()")
        for name, module in names:
            whole = module is tree and _is(tree, _WHOLE)  # what it gives is lm_head's
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
        told["dtype"] = _dtype(weight)
        told["device"] = weight.device.type
    return told


class _Recorder:
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
        """Whether one of the globs does."""
        return any(fnmatch.fnmatchcase(name, glob) for glob in self.globs)

    def chosen(self, name: str) -> bool:
        """Whether a stage is to be written."""
        return name in BEGINNINGS or self.fits(name)

    def note(self, line: str) -> None:
        """Something that the reader of the dump should know, once."""
        if line not in self.notes:
            self.notes.append(line)

    # -------------------------------------------------------------- hooks

    def before(self, module: Any, see: Callable[[dict[str, Any]], None]) -> None:
        """Show the arguments of each call of a module to ``see``."""
        names = _argument_names(module.forward)

        def hook(_: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            see(names(args, kwargs))

        # prepended: before any hook that refers to what ``see`` may write
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
        for argument, tensor in _tensors(given):
            if (key := self.key(tensor)) is None:
                if (numbers := self.numbers(f"{INPUTS}{stage}/{argument}", tensor)) is None:
                    continue
                key = self.writer.add_input(stage, argument, *numbers)
                self.remember(tensor, key)
            keys[argument] = key
        return keys

    def outputs(self, name: str, module: Any, output: Any, made_of: Mapping[str, str]) -> None:
        """Write what a call gave."""
        found = dict(_tensors(output))
        first = "pooler_output" if _is(module, _TOWERS) else "logits"
        order = sorted(found, key=lambda path: (path != first, path != "last_hidden_state"))
        for path in order:
            if path == order[0]:
                self.give(name, found[path], made_of=made_of, settings=_settings(module))
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

    def see(self, name: str, tensor: Any, shown: Any = None, once: bool = False) -> None:
        """Write a tensor that no module gives; ``once``: unless it was written already."""
        if not self.chosen(name) or not isinstance(tensor, torch.Tensor):
            return
        if not once or self.key(tensor) is None:
            self.give(name, tensor, shown)

    def numbers(self, name: str, tensor: Any) -> tuple[np.ndarray, str] | None:
        """An array and the dtype to store it as (bfloat16: float32 of the same values), or None."""
        dtype = _dtype(tensor)
        if dtype not in _DTYPES or tensor.layout != torch.strided or tensor.device.type == "meta":
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


def _dtype(tensor: Any) -> str:
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


def _tensors(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
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
        yield from _tensors(item, f"{path}.{name}" if path else str(name))


def _settings(module: Any) -> dict[str, Any]:
    """The class of a module and its simple attributes: eps, num_heads, scaling ...."""
    found = {
        name: _simple(value)
        for name, value in vars(module).items()
        if not name.startswith("_") and name != "training" and _is_simple(value)
    }
    said = module.extra_repr()
    return found | {"class": type(module).__name__} | ({"repr": said} if said else {})


def _is_simple(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return len(value) <= 64 and all(isinstance(v, (bool, int, float, str)) for v in value)
    return isinstance(value, (bool, int, float, str))


def _simple(value: Any) -> Any:
    """For JSON: what is not simple becomes text."""
    if isinstance(value, Mapping):
        return {str(name): _simple(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_simple(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return str(value)[:1000]


# ------------------------------------------------------------------ what hooks cannot see


def _watch_family(recorder: _Recorder, model: Any, names: Sequence[tuple[str, Any]]) -> None:
    """Watch the towers and language models of transformers, wherever they are in a tree.

    Written for 4.51 to 5.23; between these, each tensor was last seen at one of the places below.
    """
    whole = next((m for _, m in names if _is(m, _WHOLE + _MODELS)), None)
    prompt = _Prompt(recorder, whole) if whole is not None else None
    for name, module in names:
        if _is(module, _TOWERS):
            _Tower(recorder, module, name, alone=whole is None)
        elif _is(module, _TEXT + _MODELS) and hasattr(module, "layers"):
            _Text(recorder, module, name, prompt)
        if _is(module, _WHOLE + _MODELS) and hasattr(module, "get_rope_index"):
            see = functools.partial(_see_delta, recorder)
            recorder.stack.enter_context(_wrapped(vars(module), "get_rope_index", module, see))


@contextmanager
def _wrapped(
    space: dict[str, Any], name: str, holder: Any, see: Callable[[Any], None]
) -> Iterator[None]:
    """Show to ``see`` what the function ``name`` gives; ``space`` is where its stand-in goes.

    ``holder`` knows the function where ``space`` does not: an object whose class has it.
    """
    there = name in space
    original = space[name] if there else getattr(holder, name)

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        see(result)
        return result

    space[name] = call
    try:
        yield
    finally:
        if there:
            space[name] = original
        else:
            del space[name]


def _see_delta(recorder: _Recorder, result: Any) -> None:
    delta = result[1]
    recorder.see("model.rope_delta", delta, delta.reshape(()) if delta.numel() == 1 else delta)


class _Prompt:
    """What a run of a whole model begins with, and whether its positions are those of pictures."""

    def __init__(self, recorder: _Recorder, model: Any):
        self.recorder, self.model = recorder, model
        self.pictures = False  # whether this call brings some
        self.wants_types = "mm_token_type_ids" in inspect.signature(model.forward).parameters
        self.lacks_types = False
        recorder.before(model, self.begin)

    def begin(self, given: dict[str, Any]) -> None:
        """The arguments of the whole model."""
        pictures = [given.get(name) for name in ("image_grid_thw", "video_grid_thw")]
        pixels = [given.get(name) for name in ("pixel_values", "pixel_values_videos")]
        self.pictures = any(
            p is not None and g is not None and bool((g[:, 1:] > 2).any())
            for p, g in zip(pixels, pictures, strict=True)
        )
        self.lacks_types = self.wants_types and given.get("mm_token_type_ids") is None
        for name in BEGINNINGS:
            if isinstance(tensor := given.get(name), torch.Tensor) and name != "input_ids":
                self.recorder.see(name, tensor, once=True)
        if isinstance(ids := given.get("input_ids"), torch.Tensor):
            cache = given.get("past_key_values")
            past = cache.get_seq_length() if cache is not None else 0
            name = "generated" if past and ids.shape == (1, 1) else "input_ids"
            self.recorder.see(name, ids, ids[0] if len(ids) == 1 else ids, once=True)

    def check(self, positions: Any) -> None:
        """Positions [3, ...]: with pictures, the three rows differ."""
        if self.pictures and bool((positions == positions[:1]).all()):
            why = "mm_token_type_ids was not given, " if self.lacks_types else ""
            self.recorder.note(
                f"model.position_ids are 1-D though there are pictures: {why}so the model did not "
                "know where they are; this is no reference of a prompt with pictures"
            )


class _Text:
    """A language model: positions, embeddings and masks, where its parts receive them."""

    def __init__(self, recorder: _Recorder, text: Any, stage: str, prompt: _Prompt | None):
        self.recorder, self.prompt = recorder, prompt
        self.stage = canonical(f"{stage}.position_ids").removesuffix(".position_ids")
        recorder.before(text.rotary_emb, self.rotary)
        for i, layer in enumerate(text.layers):
            recorder.before(layer, functools.partial(self.layer, i))

    def rotary(self, given: dict[str, Any]) -> None:
        """``rotary_emb(inputs_embeds, position_ids)``, positions being [3 or 1, B, S]."""
        positions, embeds = given.get("position_ids"), given.get("x")
        self.recorder.see(f"{self.stage}.inputs_embeds", embeds)
        if not isinstance(positions, torch.Tensor) or positions.dim() != 3:
            return
        three = positions[-3:].expand(3, -1, -1)  # a fourth row would come first, for masks
        if self.prompt is not None:
            self.prompt.check(three)
        shown = three[:, 0] if three.shape[1] == 1 else three
        self.recorder.see(f"{self.stage}.position_ids", positions, shown)

    def layer(self, number: int, given: dict[str, Any]) -> None:
        """What a layer gets: a mask [B, 1, S, K], if there is one at all."""
        mask = given.get("attention_mask")
        if isinstance(mask, torch.Tensor):
            shown = mask[0, 0] if mask.dim() == 4 and mask.shape[:2] == (1, 1) else mask
            name = f"{self.stage}.layers.{number}.self_attn.mask"
            self.recorder.see(name, mask, shown, once=True)


class _Tower:
    """A vision tower: the order of windows, the bounds of sequences, and the angles.

    Who computes the order: a method up to 4.57, a function of the tower's module in 5.23. Angles: a
    method up to 4.57; in 5.23 only their cosines and sines are ever made, so the angles are made
    again from the same positions and frequencies. Bounds are what the blocks receive.
    """

    def __init__(self, recorder: _Recorder, tower: Any, stage: str, alone: bool):
        self.recorder, self.tower, self.stage, self.alone = recorder, tower, stage, alone
        self.begun = False
        self.index: Any = None
        self.angles: Any = None
        self.seen: set[str] = set()
        recorder.before(tower, self.begin)
        enter = recorder.stack.enter_context
        own, around = vars(tower), inspect.unwrap(type(tower).forward).__globals__
        if hasattr(tower, "get_window_index"):
            enter(_wrapped(own, "get_window_index", tower, self.window))
        elif "get_vision_window_index" in around:
            enter(_wrapped(around, "get_vision_window_index", tower, self.window))
        if hasattr(tower, "rot_pos_emb"):
            enter(_wrapped(own, "rot_pos_emb", tower, self.keep_angles))
        else:
            recorder.before(tower.rotary_pos_emb, self.rotary)
        for i, block in enumerate(tower.blocks):
            recorder.before(block, functools.partial(self.block, i))

    def begin(self, given: dict[str, Any]) -> None:
        """A call of the tower."""
        self.begun, self.index, self.angles, self.seen = True, None, None, set()
        if self.alone:
            self.recorder.see("pixel_values", given.get("hidden_states"), once=True)
            self.recorder.see("image_grid_thw", given.get("grid_thw"), once=True)

    def window(self, result: Any) -> None:
        """(order of the tokens, bounds of the windows)."""
        if self.begun and self.index is None:
            self.index = result[0]
            self.recorder.see(f"{self.stage}.window_index", self.index)

    def keep_angles(self, angles: Any) -> None:
        """[N, d / 2], in merge order."""
        self.angles = angles

    def rotary(self, given: dict[str, Any]) -> None:
        """(row, column) of every patch: angles are their products with the frequencies."""
        if isinstance(positions := given.get("position_ids"), torch.Tensor):
            frequencies = self.tower.rotary_pos_emb.inv_freq.to(positions.device, torch.float32)
            self.angles = (positions[..., None].float() * frequencies).flatten(1)

    def block(self, number: int, given: dict[str, Any]) -> None:
        """What a block receives; each kind of bounds is written once a call of the tower."""
        if self.angles is not None:
            self.show_angles(given.get("position_embeddings"))
        everywhere = getattr(self.tower, "fullatt_block_indexes", range(len(self.tower.blocks)))
        name = "cu_seqlens" if number in everywhere else "cu_window_seqlens"
        if name not in self.seen:
            self.seen.add(name)
            self.recorder.see(f"{self.stage}.{name}", given.get("cu_seqlens"))

    def show_angles(self, used: Any) -> None:
        """The angles in the order of the blocks; ``used`` are the cosines and sines [N, d]."""
        angles, self.angles = self.angles, None
        if self.index is not None:
            blocks = angles.reshape(len(self.index), -1, angles.shape[-1])
            angles = blocks[self.index.to(angles.device)].reshape(angles.shape)
        self.recorder.see(f"{self.stage}.rotary_angles", angles)
        if isinstance(used, tuple):
            cosines = used[0][..., : angles.shape[-1]].float()
            if not torch.allclose(cosines, angles.float().cos(), atol=1e-2):
                self.recorder.note(f"{self.stage}.rotary_angles are not those of the blocks")


# ------------------------------------------------------------------ .pt files


def read_pt(path: Path) -> Iterator[tuple[str, str, tuple[int, ...], Callable[[], np.ndarray]]]:
    """(dotted path or "", dtype, shape, a function that reads it) of every tensor in a file.

    Only tensors and plain containers are loaded, whatever the file holds. Raises UserError.
    """
    for key, tensor in _tensors(_load(path)):
        dtype = _dtype(tensor)
        if dtype not in _DTYPES or tensor.layout != torch.strided:
            raise UserError(f"{path}: {key or 'its tensor'} is of {dtype}, {tensor.layout}")
        yield key, dtype, tuple(tensor.shape), functools.partial(_read_tensor, path, key)


def _load(path: Path) -> Any:
    if torch is None:
        raise UserError(f"{path} needs torch; pip install torch, or save safetensors")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged or forbidden pickle: torch has many
        reason = str(error).strip().partition("\n")[0][:200]
        raise UserError(f"{path} is not tensors alone, or is damaged: {reason}") from None


def _read_tensor(path: Path, key: str) -> np.ndarray:
    tensor = next(t for k, t in _tensors(_load(path)) if k == key).detach()
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

    ``@record_calls("Qwen2RMSNorm")``. What went in is written before the call. A call that fails
    leaves nothing.
    """
    _need_torch()

    def decorate(forward: Callable) -> Callable:
        @functools.wraps(forward)
        def call(*args: Any, **kwargs: Any) -> Any:
            module = args[0] if args and isinstance(args[0], torch.nn.Module) else None
            given = args if module is None else args[1:]
            with _call_folder(Path(folder), name) as (place, metadata):
                metadata["class"] = type(module).__name__
                metadata["settings"] = {} if module is None else _settings_with_config(module)
                metadata["inputs"] = {
                    "args": [_save(v, place, f"inputs/arg_{i}") for i, v in enumerate(given)],
                    "kwargs": {n: _save(v, place, f"inputs/kwarg_{n}") for n, v in kwargs.items()},
                }
                output = forward(*args, **kwargs)
                metadata["outputs"] = _save(output, place, "outputs/output")
            return output

        return call

    return decorate


def _settings_with_config(module: Any) -> dict[str, Any]:
    config: Any = getattr(module, "config", None)
    known = config.to_dict() if hasattr(config, "to_dict") else {}
    return {**_simple(known), **_settings(module)}


@contextmanager
def _call_folder(folder: Path, name: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A new folder and its metadata, which is written last: a folder without it is not a call's."""
    try:
        place, stamp = _new_folder(folder, _file_name(name))
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from None
    metadata: dict[str, Any] = {"module": name, "timestamp": stamp.isoformat()}
    try:
        yield place, metadata
        text = json.dumps(metadata, indent=2, allow_nan=False) + "\n"
        write_text(str(place / "metadata.json"), text)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def _new_folder(folder: Path, name: str) -> tuple[Path, datetime]:
    """``name_TIMESTAMP``, later than all others of this process, and new."""
    global _last
    with _lock:
        stamp = max(datetime.now(), _last + timedelta(microseconds=1))
        for later in itertools.count():
            _last = stamp + timedelta(microseconds=later)
            place = folder / f"{name}_{_last.strftime(_STAMP)}"
            try:
                place.mkdir(parents=True)
            except FileExistsError:
                if place.exists():
                    continue  # another process's
                raise
            break
    for part in ("inputs", "outputs"):
        (place / part).mkdir()
    return place, _last


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)[:150] or "_"


def _save(value: Any, place: Path, stem: str) -> Any:
    """Save the tensors in a value, one file each; what metadata.json says of it."""
    if isinstance(value, torch.Tensor):
        part, _, name = stem.partition("/")
        file = place / part / f"{_file_name(name)}.pt"
        try:  # a clone: a view would take its whole storage along
            torch.save(value.detach().cpu().clone(), file)
        except (OSError, RuntimeError) as error:
            raise UserError(f"cannot write {file}: {str(error).partition(chr(10))[0]}") from None
        known = {"type": "tensor", "shape": list(value.shape), "dtype": str(value.dtype)}
        return known | {"path": f"{place.parent.name}/{place.name}/{part}/{file.name}"}
    if isinstance(value, Mapping):
        return {str(n): _save(item, place, f"{stem}_{n}") for n, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_save(item, place, f"{stem}_{i}") for i, item in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name, None) for f in dataclasses.fields(value)}
        return _save(fields, place, stem)
    return _simple(value)


def read_folder(path: str | os.PathLike) -> Dump:
    """A folder of recorded calls as a dump, in the order of their time.

    The name of a stage is the one in metadata.json if it holds one, else the module's name.
    """
    _need_torch()
    folder = Path(path)
    entries: list[Entry] = []
    calls: dict[str, int] = {}
    found = [(_stamp_of(m.parent.name), m.parent) for m in folder.glob("*/metadata.json")]
    for _, place in sorted(found):
        metadata = read_json(place / "metadata.json", required=True)
        name, call = metadata.get("stage"), metadata.get("call")
        if not isinstance(name, str) or type(call) is not int:
            known = [name, metadata.get("module"), re.sub(r"_\d{8}_\d{6}.*", "", place.name)]
            name = canonical(next(n for n in known if isinstance(n, str)))
            call = calls[name] = calls.get(name, -1) + 1
        entries += _call_entries(place, metadata, name, call)
    dump = make_dump(str(folder), entries)
    if nothing := [str(p.name) for _, p in found if not any((p / "outputs").glob("*.pt"))]:
        dump.notes.append(f"{len(nothing)} calls gave no tensors, {sorted(nothing)[0]} among them")
    return dump


def _stamp_of(name: str) -> str:
    stamp = re.search(r"\d{8}_\d{6}(_\d+)?$", name)
    return stamp[0] if stamp else ""


def _call_entries(place: Path, metadata: dict[str, Any], name: str, call: int) -> Iterator[Entry]:
    """One call: what it gave, and what it was made of."""
    inputs = metadata.get("inputs")
    made_of: dict[str, str] = {}
    for argument, file in _files(place / "inputs", inputs if isinstance(inputs, dict) else {}):
        for key, dtype, shape, load in read_pt(file):
            argument_key = f"{argument}.{key}" if key else argument
            made_of[argument_key] = f"{INPUTS}{key_of(name, call)}/{argument_key}"
            yield Entry(made_of[argument_key], 0, shape, dtype, load)
    settings = metadata.get("settings")
    info = {"inputs": made_of, "settings": settings if isinstance(settings, dict) else {}}
    first = True
    for output, file in _files(place / "outputs", {"": metadata.get("outputs")}):
        for key, dtype, shape, load in read_pt(file):
            path = ".".join(part for part in (output, key) if part)
            yield Entry(name if first else f"{name}.{path}", call, shape, dtype, load, info)
            first = False


def _files(folder: Path, told: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
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
        for name, value in told.items():
            walk(value, () if name in ("args", "kwargs") else (name,))
    except RecursionError:
        raise UserError(f"{folder.parent}: its metadata.json is nested too deep") from None
    for file in sorted(folder.glob("*.pt"), key=lambda f: (f.name not in named, _natural(f.name))):
        told_name = named.get(file.name, "")
        if file.name.startswith("arg_"):
            told_name = file.stem.replace("_", ".").replace("arg.", "arg_", 1)
        elif not told_name and folder.name == "inputs":
            told_name = file.stem.removeprefix("kwarg_")
        elif not told_name and file.stem != "output":
            told_name = file.stem.removeprefix("output_")
        yield told_name, file


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts output_10 after output_9."""
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in re.split(r"(\d+)", name)]


def write_folder(dump: Dump, path: str | os.PathLike) -> Path:
    """Write a dump as a folder of calls, as :func:`record_calls` does; returns the folder."""
    _need_torch()
    folder = Path(path)
    for entry in dump:
        made_of = entry.info.get("inputs")
        settings = entry.info.get("settings")
        settings = dict(settings) if isinstance(settings, Mapping) else {}
        with _call_folder(folder, entry.name) as (place, metadata):
            metadata |= {"stage": entry.name, "call": entry.call}
            metadata |= {"class": settings.get("class"), "settings": settings}
            args: list[Any] = []
            kwargs: dict[str, Any] = {}
            for argument, key in (made_of if isinstance(made_of, Mapping) else {}).items():
                source = dump.inputs.get(key) or next((e for e in dump if e.key == key), None)
                if source is None:
                    continue
                stem = argument if re.fullmatch(r"arg_\d+", argument) else f"kwarg_{argument}"
                told = _save(_tensor(source), place, f"inputs/{stem}")
                if stem == argument:
                    args.append(told)
                else:
                    kwargs[argument] = told
            metadata["inputs"] = {"args": args, "kwargs": kwargs}
            metadata["outputs"] = _save(_tensor(entry), place, "outputs/output")
    return folder


def _tensor(entry: Entry) -> Any:
    tensor = torch.from_numpy(np.array(entry.read()))
    return tensor.to(torch.bfloat16) if entry.dtype == "bfloat16" else tensor
