"""Load a port's own weights (MLX, GGUF or safetensors files, dequantised) into our model.

A port with 4-bit weights is correct if it computes what its own weights give. On the same weights,
the reference differs from it only by rounding. The config is the checkpoint's; each weight that the
files hold replaces the checkpoint's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..checkpoint import HEAD, assemble, read_safetensors, weight_shapes
from ..cli import note
from ..config import read_json
from ..errors import UserError
from ..model import Model
from ..weights import flatten
from .stages import canonical

Load: TypeAlias = Callable[[], np.ndarray]
GROUP = 64  # MLX's values per scale, where config.json does not say


def with_weights(model: Model, sources: Sequence[str | Path]) -> Model:
    """The same model with the weights of ``sources``: files (.safetensors, .gguf) or folders.

    Raises UserError when a file cannot be read, holds none of the model's weights, or one whose
    shape is another. Weights in none of the files are the checkpoint's, with a note.
    """
    found: dict[str, Load] = {}
    for source in sources:
        found |= _read(Path(source), model)
    shapes = weight_shapes(replace(model.config, tie_word_embeddings=False))
    taken = {name: load for name, load in found.items() if name in shapes}
    if not taken:
        some = ", ".join(list(found)[:3]) or "nothing"
        raise UserError(f"{sources[0]} holds none of the model's weights; it holds {some}")
    tied = model.config.tie_word_embeddings and HEAD not in taken
    config = replace(model.config, tie_word_embeddings=tied)
    missing = [n for n in weight_shapes(config) if n not in taken]
    if missing:
        note(f"{len(missing)} weights stay the checkpoint's, {missing[0]} among them")
    kept = {n: a for n, a in flatten(model.weights).items() if n in missing}
    leaves = {
        name: kept[name] if name in kept else _fitting(name, taken[name], shape, model.dtype)
        for name, shape in weight_shapes(config).items()
    }
    return replace(model, config=config, weights=assemble(leaves, config))


def _fitting(name: str, load: Load, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A weight in our shape; MLX stores kernels with the channels last."""
    array = load()
    if array.shape != shape and array.ndim == 5:
        array = np.moveaxis(array, -1, 1)
    if array.shape != shape:
        raise UserError(
            f"{name} is {list(array.shape)} in the port's weights, {list(shape)} in the model: "
            "is it another size?"
        )
    return np.ascontiguousarray(array, dtype)


def _read(path: Path, model: Model) -> dict[str, Load]:
    """Published name -> how to read it."""
    if path.is_dir():
        files = sorted(path.glob("*.safetensors")) or sorted(path.glob("*.gguf"))
        if not files:
            raise UserError(f"{path} holds no .safetensors and no .gguf files")
        found: dict[str, Load] = {}
        for file in files:
            found |= _read(file, model)
        return found
    if path.suffix == ".gguf":
        return _gguf(path, model)
    if path.suffix == ".safetensors":
        return _safetensors(path)
    raise UserError(f"{path}: weights are read from .safetensors, .gguf, or a folder of them")


# ------------------------------------------------------------------ safetensors, MLX


def _safetensors(path: Path) -> dict[str, Load]:
    stored = read_safetensors(path, None, None)
    config = read_json(path.parent / "config.json")
    settings = config.get("quantization", config.get("quantization_config"))
    settings = settings if isinstance(settings, dict) else {}
    found: dict[str, Load] = {}
    for name, leaf in stored.items():
        stem, _, kind = name.rpartition(".")
        if kind in ("scales", "biases") and f"{stem}.weight" in stored:
            continue
        published = f"{canonical(stem)}.{kind}"
        if f"{stem}.scales" in stored and kind == "weight":
            group = _group_size(settings, stem)
            found[published] = _Quantised(stored, stem, group)
        else:
            found[published] = _Floats(leaf)
    return found


def _group_size(settings: Mapping[str, Any], stem: str) -> int:
    own = settings.get(stem)
    size = (own if isinstance(own, dict) else settings).get("group_size", GROUP)
    mode = (own if isinstance(own, dict) else settings).get("mode", "affine")
    if mode != "affine" or type(size) is not int or size < 1:
        raise UserError(f"{stem}: quantisation {mode} in groups of {size} is not supported")
    return size


class _Floats:
    def __init__(self, leaf: Any):
        self.leaf = leaf

    def __call__(self) -> np.ndarray:
        array = self.leaf()
        if array.dtype.kind in "iub":
            raise UserError(f"{self.leaf.name} is stored as {array.dtype}, an unknown quantisation")
        return array.astype(np.float32)


class _Quantised:
    """A matrix of MLX: ``weight`` packed in 32-bit words, ``scales`` and ``biases`` per group."""

    def __init__(self, stored: Mapping[str, Any], stem: str, group: int):
        self.stored, self.stem, self.group = stored, stem, group

    def __call__(self) -> np.ndarray:
        words = self.stored[f"{self.stem}.weight"]()
        scales = self.stored[f"{self.stem}.scales"]().astype(np.float32)
        if words.dtype != np.uint32 or f"{self.stem}.biases" not in self.stored:
            raise UserError(f"{self.stem} has an unsupported quantisation of MLX: use affine")
        offsets = self.stored[f"{self.stem}.biases"]().astype(np.float32)
        return dequantised(words, scales, offsets, self.group)


def dequantised(
    words: np.ndarray, scales: np.ndarray, offsets: np.ndarray, group: int
) -> np.ndarray:
    """Dequantise MLX's affine format: [E, words] -> [E, D] in float32.

    A row is a stream of integers of 2 to 8 bits, lowest bits first; each group of ``group`` values
    has a scale and an offset, [E, D / group]. Raises UserError when the sizes do not fit.
    """
    rows, groups = scales.shape
    bits, rest = divmod(32 * words.shape[-1], groups * group)
    if rest or not 2 <= bits <= 8:
        raise UserError(f"{words.shape[-1]} words are not {groups} groups of {group} values")
    stream = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=-1, bitorder="little")
    digits = np.reshape(stream, (rows, groups, group, bits))
    values = digits @ (2 ** np.arange(bits)).astype(np.float32)
    return np.reshape(values * scales[..., None] + offsets[..., None], (rows, groups * group))


# ------------------------------------------------------------------ GGUF


def _gguf(path: Path, model: Model) -> dict[str, Load]:
    """A text model or an mmproj file of llama.cpp, by the names of the package ``gguf``."""
    try:
        import gguf
    except ImportError:
        raise UserError(f"{path} needs the package gguf: pip install 'tinyqwenvl[gguf]'") from None
    try:
        tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    except Exception as error:  # a damaged file may raise anything
        raise UserError(f"{path} is not a GGUF file ({error})") from None
    text = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2VL, model.config.text.num_hidden_layers)
    vision = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, model.config.vision.depth)

    def load(*names: str) -> Load:
        def read() -> np.ndarray:
            found = [tensors[name] for name in names]
            parts = [np.reshape(gguf.dequantize(t.data, t.tensor_type), _shape(t)) for t in found]
            return parts[0] if len(parts) == 1 else np.concatenate(parts)

        return read

    found: dict[str, Load] = {}
    for name in weight_shapes(replace(model.config, tie_word_embeddings=False)):
        known = vision if name.startswith("visual.") else text
        theirs = known.get_name(name, try_suffixes=(".weight", ".bias")) or name
        split = [theirs.replace("attn_qkv", f"attn_{part}") for part in "qkv"]
        if name == "visual.patch_embed.proj.weight" and f"{theirs}.1" in tensors:
            found[name] = _frames(load(theirs), load(f"{theirs}.1"))
        elif theirs in tensors:
            found[name] = load(theirs)
        elif "attn_qkv" in theirs and all(part in tensors for part in split):
            found[name] = load(*split)
    if not found:
        raise UserError(f"{path} holds no weights of this family; it holds {list(tensors)[:3]}")
    return found


def _shape(tensor: Any) -> tuple[int, ...]:
    """A tensor's shape as NumPy has it; GGUF counts the axes from the innermost."""
    return tuple(int(n) for n in reversed(tensor.shape))


def _frames(first: Load, second: Load) -> Load:
    """Two 2-D kernels [D, 3, 14, 14] joined into one kernel of two frames [D, 3, 2, 14, 14]."""
    return lambda: np.stack([first(), second()], axis=2)
