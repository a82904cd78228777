"""Reading weights: a published directory of safetensors -> nested, lazy, named weights.

Files are memory-mapped: opening is instant, and a tensor is read, and turned into the wanted dtype,
the first time that it is used.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .config import Config, read_json
from .errors import UserError
from .weights import Weights, nest

STORED_DTYPES: dict[str, np.dtype] = {
    "BF16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}

# transformers >= 4.52 names parts differently in memory; some checkpoints were saved that way.
_RENAMED = (("model.visual.", "visual."), ("model.language_model.", "model."))


# ------------------------------------------------------------------ safetensors


def to_float(stored: np.ndarray, kind: str, dtype: np.dtype) -> np.ndarray:
    """Stored numbers -> an array of ``dtype``. The only place where bfloat16 becomes float.

    bfloat16 is the upper half of a float32: shift it back into place (NumPy has no such type).
    """
    if kind == "BF16":
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(stored).astype(dtype, copy=False)


def to_bfloat16(array: np.ndarray) -> np.ndarray:
    """float32 -> the bits of bfloat16 as uint16, rounded to nearest even. For writing."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def read_header(
    path: Path, kinds: Mapping[str, np.dtype] = STORED_DTYPES
) -> tuple[dict[str, dict], int]:
    """The table of a safetensors file, checked against the file's size, and where its data begins.

    Layout: u64 length of the header, the header (JSON), the bytes of the tensors without a gap.
    Raises UserError when the file is cut, is something else, or holds other ``kinds`` of numbers.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, 100_000_000):
                raise ValueError("its header does not fit in it")
            header = json.loads(file.read(length), object_pairs_hook=_without_duplicates)
        header.pop("__metadata__", None)
        end = 0
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            end = _check_entry(path, name, entry, end, kinds)
        if end != size - 8 - length:
            raise ValueError(f"it has {size - 8 - length} bytes of data, its header says {end}")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: get the whole of it again") from None
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is cut or is not a safetensors file ({error}): get it again"
        ) from None
    return header, 8 + length


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name stands twice in its header")
    return dict(pairs)


def _check_entry(
    path: Path, name: str, entry: dict, begins: int, kinds: Mapping[str, np.dtype]
) -> int:
    """One tensor's entry, which must begin where the one before it ended; returns its own end."""
    kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if kind not in kinds:
        known = ", ".join(kinds)
        raise UserError(f"{path}: {name} is stored as {kind}; only {known} are read (unquantised)")
    if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
        raise ValueError(f"the shape or place of {name} is not of whole numbers")
    if begin != begins:
        raise ValueError(f"{name} overlaps its neighbour or leaves a gap")
    if math.prod(shape) * kinds[kind].itemsize != end - begin:
        raise ValueError(f"the shape of {name} does not fit its bytes")
    return end


@dataclass(frozen=True)
class Stored:
    """A tensor still in its file; calling it reads it."""

    path: Path
    kind: str
    shape: tuple[int, ...]
    offset: int
    dtype: np.dtype

    def __call__(self) -> np.ndarray:
        """Read the tensor."""
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        bits = np.memmap(self.path, STORED_DTYPES[self.kind], "r", self.offset, self.shape)
        return to_float(bits, self.kind, self.dtype)


def read_safetensors(path: Path, dtype: Any = np.float32) -> dict[str, Stored]:
    """Open a file: name -> the tensor, to be read as ``dtype`` when it is called."""
    header, start = read_header(path)
    return {
        name: Stored(
            path,
            entry["dtype"],
            tuple(entry["shape"]),
            start + entry["data_offsets"][0],
            np.dtype(dtype),
        )
        for name, entry in header.items()
    }


def write_safetensors(path: Path, flat: Mapping[str, np.ndarray], bfloat16: bool = False) -> None:
    """Write name -> array as float32, or as bfloat16. The file appears whole or not at all."""
    kind, convert = ("BF16", to_bfloat16) if bfloat16 else ("F32", np.float32)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, array in flat.items():
        end = offset + array.size * STORED_DTYPES[kind].itemsize
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    whole = path.with_name(path.name + ".part")
    with whole.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in flat.values():
            file.write(np.ascontiguousarray(convert(array), STORED_DTYPES[kind]).tobytes())
    whole.replace(path)


# ------------------------------------------------------------------ a published directory


def published_name(name: str) -> str:
    """Any known layout of names -> the published one (``visual.*``, ``model.*``, ``lm_head.*``)."""
    for there, here in _RENAMED:
        if name.startswith(there):
            return here + name[len(there) :]
    return name


def weight_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Every weight that a model of this config has, under its published name, with its shape."""
    v, t = config.vision, config.text
    width, merged = v.hidden_size, v.hidden_size * v.spatial_merge_size**2
    kernel = (v.in_channels, v.temporal_patch_size, v.patch_size, v.patch_size)
    newer = config.model_type == "qwen2_5_vl"
    shapes: dict[str, tuple[int, ...]] = {"visual.patch_embed.proj.weight": (width, *kernel)}

    def add(name: str, *shape: int, bias: bool = False) -> None:
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]

    for i in range(v.depth):
        block = f"visual.blocks.{i}"
        add(f"{block}.norm1", width, bias=not newer)
        add(f"{block}.norm2", width, bias=not newer)
        add(f"{block}.attn.qkv", 3 * width, width, bias=True)
        add(f"{block}.attn.proj", width, width, bias=True)
        for name in ("gate_proj", "up_proj") if newer else ("fc1",):
            add(f"{block}.mlp.{name}", v.intermediate_size, width, bias=True)
        add(f"{block}.mlp.{'down_proj' if newer else 'fc2'}", width, v.intermediate_size, bias=True)
    add("visual.merger.ln_q", width, bias=not newer)
    add("visual.merger.mlp.0", merged, merged, bias=True)
    add("visual.merger.mlp.2", v.out_hidden_size, merged, bias=True)

    add("model.embed_tokens", t.vocab_size, t.hidden_size)
    for i in range(t.num_hidden_layers):
        layer = f"model.layers.{i}"
        add(f"{layer}.input_layernorm", t.hidden_size)
        add(f"{layer}.post_attention_layernorm", t.hidden_size)
        heads = {"q": t.num_attention_heads, "k": t.num_key_value_heads, "v": t.num_key_value_heads}
        for name, count in heads.items():
            add(f"{layer}.self_attn.{name}_proj", count * t.head_dim, t.hidden_size, bias=True)
        add(f"{layer}.self_attn.o_proj", t.hidden_size, t.num_attention_heads * t.head_dim)
        add(f"{layer}.mlp.gate_proj", t.intermediate_size, t.hidden_size)
        add(f"{layer}.mlp.up_proj", t.intermediate_size, t.hidden_size)
        add(f"{layer}.mlp.down_proj", t.hidden_size, t.intermediate_size)
    add("model.norm", t.hidden_size)
    if not config.tie_word_embeddings:
        add("lm_head", t.vocab_size, t.hidden_size)
    return shapes


def parameter_count(config: Config) -> int:
    """How many numbers the weights of a model are."""
    return sum(map(math.prod, weight_shapes(config).values()))


def load_weights(directory: Path, config: Config, dtype: Any = np.float32) -> Weights:
    """All weights of a directory: one ``model.safetensors``, or shards named by an index.

    Raises UserError when a tensor is missing, unknown, or of another shape than ``config`` says.
    """
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    shards = [single.name]
    if index.exists() and not single.exists():
        places = read_json(index).get("weight_map")
        shards = sorted({str(s) for s in places.values()}) if isinstance(places, dict) else []
        if not shards or not all(re.fullmatch(r"[\w-][\w.-]*", shard) for shard in shards):
            raise UserError(f"{index} should name shards inside its directory; fetch it again")
    leaves: dict[str, Stored] = {}
    for shard in shards:
        for name, leaf in read_safetensors(directory / shard, dtype).items():
            if published_name(name) in leaves:
                raise UserError(
                    f"{directory}: {name} stands twice in its files; remove one of them"
                )
            leaves[published_name(name)] = leaf
    if config.tie_word_embeddings:
        leaves.pop("lm_head.weight", None)  # some re-saves keep a copy; HF ignores it too
    _compare(directory, {n: leaf.shape for n, leaf in leaves.items()}, weight_shapes(config))
    return assemble(leaves, config)


def _compare(directory: Path, found: Mapping[str, tuple], expected: Mapping[str, tuple]) -> None:
    for name in expected:
        if name not in found:
            raise UserError(
                f"{directory}: the weights lack {name}; fetch the whole checkpoint again"
            )
        if found[name] != expected[name]:
            raise UserError(
                f"{directory}: {name} is {list(found[name])}, but config.json makes it "
                f"{list(expected[name])}"
            )
    if extra := next((name for name in found if name not in expected), None):
        raise UserError(f"{directory}: unknown weight {extra}; is it another kind of model?")


def assemble(flat: Mapping[str, Any], config: Config) -> Weights:
    """Published names -> the nested weights of a model; a tied ``lm_head`` shares the embedding."""
    root = nest(flat)
    if not config.tie_word_embeddings:
        return root
    head = Weights({"weight": lambda: root.model.embed_tokens.weight}, "lm_head")
    return Weights({"visual": root.visual, "model": root.model, "lm_head": head})
