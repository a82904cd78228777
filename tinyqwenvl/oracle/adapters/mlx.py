"""MLX: a dump of mlx-vlm's Qwen2-VL and Qwen2.5-VL, while ``generate`` or a call of yours runs.

Example::

    from mlx_vlm import load
    from tinyqwenvl.oracle.adapters.mlx import instrument

    model, processor = load(folder)
    with instrument(model, "mine.safetensors"):
        model(input_ids, pixel_values, image_grid_thw=grids)

Every call of every module is written, and tensors that no module returns: ids, patches, grids,
window order, angles, positions. Tested with mlx-vlm 0.7.10 on ``mlx[cpu]`` 0.32.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from ... import __version__
from ...errors import UserError
from ..dump import Dump, Writer
from ..stages import BEGINNINGS, canonical

try:
    import mlx.core as mx
except ImportError:  # callers get a UserError
    mx = None

__all__ = ["Dump", "instrument"]


@contextmanager
def instrument(
    model: Any,
    target: str | os.PathLike = "mine.safetensors",
    stages: Sequence[str] = ("*",),
    about: Mapping[str, Any] | None = None,
) -> Iterator[Writer]:
    """Write what ``model`` (of mlx-vlm) computes in the ``with`` block to the dump ``target``.

    ``stages``: globs on our names; what a run begins with is always written. The classes of the
    modules are replaced inside the block only, so the model itself is unchanged.
    """
    if mx is None:
        raise UserError("this needs MLX: pip install mlx-vlm 'mlx[cpu]'")
    modules = {name: module for name, module in model.named_modules() if name}
    if not modules:
        raise UserError(f"a {type(model).__name__} has no modules; give the model of mlx-vlm")
    kinds = {id(module): type(module) for module in [model, *modules.values()]}
    kind = str(getattr(getattr(model, "config", None), "model_type", ""))
    head = {"made_by": {"tinyqwenvl": __version__, "mlx": mx.__version__}, "model_type": kind}
    head |= {"model": {"class": type(model).__name__}} | dict(about or {})
    with Writer(target, head) as writer:
        watch = _Watch(writer, tuple(stages), any(n.endswith("lm_head") for n in modules))
        try:
            seen: set[int] = set()
            for name, module in modules.items():
                if id(module) not in seen:
                    seen.add(id(module))
                    watch.module(name, module)
            watch.whole(model)
            yield writer
        finally:
            for module in [model, *modules.values()]:
                module.__class__ = kinds[id(module)]


class _Watch:
    """What is written of each call."""

    def __init__(self, writer: Writer, globs: tuple[str, ...], has_head: bool):
        self.writer, self.globs, self.has_head = writer, globs, has_head
        self.prompt = 0  # tokens of the prompt that the language model has not processed yet
        self.shown: set[str] = set()  # of this call of the vision encoder

    def give(self, name: str, value: Any) -> None:
        """Write the next call of a stage; a batch of one is dropped."""
        if name not in BEGINNINGS and not any(fnmatchcase(name, glob) for glob in self.globs):
            return
        array, dtype = _as_numpy(value)
        if array.ndim >= 3 and array.shape[0] == 1:
            array = array[0]
        self.writer.add(name, array, dtype=dtype)

    # -------------------------------------------------------------- modules

    def module(self, name: str, module: Any) -> None:
        """Write every call of a module."""
        ours, kind = canonical(name), type(module)
        call = kind.__call__
        before: Callable[..., None] | None = None
        if ours == "language_model":
            before, ours = self.tokens, "" if self.has_head else "lm_head"
        elif name == "language_model.model":
            before, ours = self.text, ""
        elif ours.startswith("visual.blocks.") and ours.count(".") == 2:
            before = self.block
        elif ours == "visual":
            before = self.encoder

        def hooked(self_: Any, *args: Any, **kwargs: Any) -> Any:
            if before is not None:
                before(self_, ours, *args, **kwargs)
            result = call(self_, *args, **kwargs)
            output = getattr(result, "logits", result)
            if ours and isinstance(output, mx.array):
                self.give(ours, output)
            return result

        methods: dict[str, Any] = {"__call__": hooked}
        if hasattr(kind, "get_window_index"):
            methods["get_window_index"] = self._order(kind.get_window_index)
        module.__class__ = type(kind.__name__, (kind,), methods)

    def whole(self, model: Any) -> None:
        """The prompt and its positions."""
        kind = type(model)
        embed = kind.get_input_embeddings

        def hooked(self_: Any, input_ids: Any = None, *args: Any, **kwargs: Any) -> Any:
            given = dict(zip(("pixel_values",), args, strict=False)) | kwargs
            if input_ids is not None:
                self.give("input_ids", input_ids.reshape(-1) if len(input_ids) == 1 else input_ids)
                self.prompt = input_ids.shape[-1]
            for name in ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw"):
                if given.get(name) is not None:
                    self.give(name, given[name])
            result = embed(self_, input_ids, *args, **kwargs)
            delta = getattr(result, "rope_deltas", None)
            if isinstance(delta, mx.array) and delta.size == 1:
                self.give("model.rope_delta", delta.reshape(()))
            return result

        model.__class__ = type(kind.__name__, (kind,), {"get_input_embeddings": hooked})

    def _order(self, original: Callable) -> Callable:
        def hooked(self_: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(self_, *args, **kwargs)
            self.give("visual.window_index", result[0])
            return result

        return hooked

    def encoder(self, *_: Any, **__: Any) -> None:
        """A call of the vision encoder begins."""
        self.shown = set()

    def block(self, _: Any, name: str, *__: Any, **given: Any) -> None:
        """The inputs of a block: sequence boundaries and angles."""
        bounds, angles = given.get("cu_seqlens"), given.get("rotary_pos_emb")
        if angles is not None and "angles" not in self.shown:
            self.shown.add("angles")
            self.give("visual.rotary_angles", angles)
        if bounds is not None:
            key = str(np.array(bounds).tolist())
            kind = "cu_window_seqlens" if "cu_window_seqlens" not in self.shown else "cu_seqlens"
            if key not in self.shown and kind not in self.shown:
                self.shown |= {key, kind}
                self.bounds(name, kind, bounds)

    def bounds(self, name: str, kind: str, bounds: Any) -> None:
        """Written under the name of windows only where the encoder has windows."""
        windows = "visual.window_index" in self.writer.calls
        self.give(f"visual.{kind if windows else 'cu_seqlens'}", bounds)

    def tokens(self, _: Any, __: str, inputs: Any = None, *___: Any, **____: Any) -> None:
        """The ids given to the language model: after the prompt, the generated ones."""
        if inputs is None:
            return
        count = inputs.shape[-1]
        if self.prompt <= 0 and count == 1 and "input_ids" in self.writer.calls:
            self.give("generated", inputs.reshape(-1))
        elif self.prompt <= 0:  # a call without get_input_embeddings
            self.give("input_ids", inputs.reshape(-1))
        self.prompt -= count

    def text(self, _: Any, __: str, *___: Any, **given: Any) -> None:
        """The inputs of the decoder: embeddings and positions."""
        if (embeds := given.get("inputs_embeds")) is not None:
            self.give("model.inputs_embeds", embeds)
        if (positions := given.get("position_ids")) is not None:
            if positions.ndim == 2:  # of text: one row for all three axes
                positions = mx.broadcast_to(positions[None], (3, *positions.shape))
            self.give("model.position_ids", positions[:, 0])


def _as_numpy(value: Any) -> tuple[np.ndarray, str | None]:
    """An array and the dtype to store it as (bfloat16: float32 of the same values)."""
    if not isinstance(value, mx.array):
        return np.asarray(value), None
    if value.dtype == mx.bfloat16:
        return np.array(value.astype(mx.float32)), "bfloat16"
    return np.array(value), None
