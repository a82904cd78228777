"""PyTorch: a dump of any tree of modules, and folders of recorded calls.

:func:`instrument` is for Qwen2-VL and Qwen2.5-VL in Hugging Face transformers (or in anything whose
names are like theirs): every call of every module, under our names, and the tensors that hooks
cannot see (:mod:`.hidden`). :func:`instrument_tree` is for any other tree. Nothing in the package
outside ``oracle/`` needs torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from .. import __version__
from ..errors import UserError
from .dump import INPUTS, Writer
from .hidden import MODELS, TEXTS, VISION_ENCODERS, WHOLES, is_a, watch_family
from .recorder import DTYPES, Recorder, dtype_of, need_torch, settings, simple, tensors, torch
from .stages import BEGINNINGS, canonical

__all__ = [
    "DTYPES", "Recorder", "canonical", "dtype_of", "instrument", "instrument_tree", "need_torch",
    "settings", "simple", "tensors", "torch",
]  # fmt: skip

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
    If a call returns several tensors, the first is NAME and the others NAME.1, NAME.2 ...
    (fields of a dataclass: NAME.FIELD), unless a stage has that name. A batch of one is
    dropped: [1, S, D] is written as [S, D].

    Besides the modules, the dump holds the tensors that hooks cannot see, ``visual.window_index``,
    ``model.position_ids`` and so on. An attention mask that all layers share is written once; so is
    what a run begins with, even if every step gets it again. A later step's token is ``generated``.

    ``stages``: globs on names; what a run begins with (:data:`BEGINNINGS`) is always written.
    ``inputs``: also write inputs of a call that no stage gave. ``about``: more for the
    manifest. ``prefix``: the name of ``model`` itself, if it is a part that we cannot guess
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
    """(name, module) of every module; a module with several names has its first."""
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
    about = _about(tree) | dict(about or {})
    with Writer(target, about) as writer, ExitStack() as stack:
        recorder = Recorder(writer, stack, globs, inputs, drop_batch, {n for n, _ in names})
        if any(module.training for _, module in names):
            recorder.note("the model was in training mode: dropout is active; call model.eval()")
        for name, module in names:
            whole = module is tree and is_a(tree, WHOLES)  # its output is lm_head's
            if recorder.chosen(name) and not whole:
                recorder.hook(name, module)
        yield recorder
        written = {line["name"] for line in writer.stages}
        if not any(n not in BEGINNINGS or recorder.fits(n) for n in written):
            raise UserError(f"no stage that ran matches {', '.join(globs)}; see named_modules()")
        if recorder.notes:
            writer.about["notes"] = [*writer.about.get("notes", ()), *recorder.notes]


def _about(tree: Any) -> dict[str, Any]:
    """The manifest's entry for a module tree."""
    versions = {"tinyqwenvl": __version__, "torch": torch.__version__}
    if type(tree).__module__.startswith("transformers."):
        import transformers

        versions["transformers"] = transformers.__version__
    about: dict[str, Any] = {"made_by": versions, "model": {"class": type(tree).__name__}}
    kind = getattr(getattr(tree, "config", None), "model_type", None)
    if isinstance(kind, str):
        about["model_type"] = next((k for k in ("qwen2_5_vl", "qwen2_vl") if k in kind), kind)
    if (weight := next(tree.parameters(), None)) is not None:
        about["dtype"] = dtype_of(weight)
        about["device"] = weight.device.type
    return about
