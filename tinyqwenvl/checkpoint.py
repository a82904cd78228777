"""Reading weights: a published directory of safetensors -> nested, lazy, named weights.

Opening reads the headers only. A tensor is read by the safetensors library, and turned into the
wanted dtype, the first time that it is used.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .config import Config, read_json
from .errors import UserError, note
from .finetuned import explain_names, other_directory, quantised_error
from .weights import Weights, nest

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
STORED_DTYPES: dict[str, np.dtype] = {  # by safetensors' names
    "BF16": BFLOAT16,
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}

# transformers >= 4.52 names parts differently in memory; some checkpoints were saved that way.
_RENAMED = (
    ("model.visual.", "visual."),
    ("model.language_model.", "model."),
    ("language_model.", "model."),  # the model without its head, saved alone
    ("model.model.", "model."),
)
LFS = b"version https://git-lfs"  # what Git leaves where it has no LFS
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


# ------------------------------------------------------------------ safetensors


def to_float(stored: np.ndarray, dtype: Any = np.float32) -> np.ndarray:
    """Stored values -> an array of ``dtype``. The only place where bfloat16 becomes float32."""
    return stored.astype(dtype, copy=False)


def to_bfloat16(array: np.ndarray) -> np.ndarray:
    """float32 -> bfloat16, rounded to nearest even. For writing."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(array, np.float32).astype(BFLOAT16)


@dataclass(frozen=True)
class Stored:
    """A tensor still in its file; calling it reads it."""

    path: Path
    name: str  # in the file
    kind: str  # its dtype, by safetensors' name
    shape: tuple[int, ...]
    dtype: np.dtype | None  # to read it as; None: as it is stored

    def __call__(self) -> np.ndarray:
        """Read the tensor. Raises UserError when the file is no longer as it was."""
        try:
            with safe_open(self.path, framework="np") as file:
                array = file.get_tensor(self.name)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{self.path}: {self.name} cannot be read ({_line(error)})") from None
        return array if self.dtype is None else to_float(array, self.dtype)


def read_safetensors(
    path: Path, dtype: Any = np.float32, kinds: Collection[str] | None = tuple(STORED_DTYPES)
) -> dict[str, Stored]:
    """Open a file: name -> the tensor, to be read as ``dtype`` when it is called.

    Raises UserError when the file is missing, cut, or something else, and for a tensor of a dtype
    that is not one of ``kinds`` (None: any).
    """
    path, wanted = Path(path), None if dtype is None else np.dtype(dtype)
    stored = {}
    try:
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                about = file.get_slice(name)
                kind, shape = about.get_dtype(), tuple(about.get_shape())
                stored[name] = Stored(path, name, kind, shape, wanted)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: get the whole of it again") from None
    except (OSError, ValueError, SafetensorError) as error:
        if _begins_with(path, LFS):
            raise UserError(
                f"{path} is a Git LFS pointer, not the file itself: git lfs pull fetches it"
            ) from None
        raise UserError(
            f"{path} is cut or is not a safetensors file ({_line(error)}): get it again"
        ) from None
    for name, leaf in stored.items():
        if kinds is not None and leaf.kind not in kinds:
            known = ", ".join(kinds)
            raise UserError(
                f"{path}: {name} is stored as {leaf.kind}; only {known} are read (unquantised)"
            )
    return stored


def _begins_with(path: Path, magic: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False


def _line(error: Exception) -> str:
    """The first line of the library's reason, not too long."""
    return (str(error) or type(error).__name__).partition("\n")[0][:200]


def write_safetensors(path: Path, flat: Mapping[str, np.ndarray], bfloat16: bool = False) -> None:
    """Write name -> array as float32, or as bfloat16. The file appears whole or not at all."""
    convert = to_bfloat16 if bfloat16 else np.float32
    save_whole(path, {name: np.asarray(convert(array)) for name, array in flat.items()})


def save_whole(path: Path, flat: Mapping[str, np.ndarray]) -> None:
    """Write name -> array as it is, under a temporary name that is then changed."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        save_file({n: np.asarray(a, order="C") for n, a in flat.items()}, part, {"format": "pt"})
        part.replace(path)
    except SafetensorError as error:  # its way to say that the disk is full
        raise OSError(_line(error)) from None
    finally:
        part.unlink(missing_ok=True)


class Spool:
    """Tensors kept on disk until one call writes them all: memory does not grow with their number.

    The library wants all tensors of a file at once. From safetensors 0.8 on it copies none of them.
    """

    def __init__(self, folder: Path):
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - nameless, closed by close
        self._parts: dict[str, tuple[np.dtype, tuple[int, ...], int]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    def add(
        self, name: str, dtype: np.dtype, shape: tuple[int, ...], chunks: Iterable[np.ndarray]
    ) -> None:
        """Keep a tensor that comes in ``chunks``, one after another in memory order."""
        self._parts[name] = np.dtype(dtype), shape, self._file.tell()
        for chunk in chunks:
            self._file.write(chunk.astype(dtype, copy=False).tobytes())

    def save(self, path: Path) -> None:
        """Write one safetensors file of all tensors; it appears whole or not at all."""
        size = self._file.tell()
        self._file.flush()
        whole = np.memmap(self._file, np.uint8, "r") if size else np.empty(0, np.uint8)
        arrays = {}
        for name, (dtype, shape, start) in self._parts.items():
            part = whole[start : start + math.prod(shape) * dtype.itemsize]
            arrays[name] = np.asarray(part).view(dtype).reshape(shape)
        save_whole(path, arrays)

    def close(self) -> None:
        """Give the room on disk back."""
        self._file.close()


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

    A head of the file's own goes before ``tie_word_embeddings``, as in transformers >= 5.0; a note
    says so (``compat.tied_head`` has what 4.x does). Raises UserError when a tensor is missing,
    unknown, quantised, or of another shape than ``config`` says.
    """
    leaves = _find_leaves(directory, dtype)
    explain_names(directory, leaves, config.quantised)
    for name, leaf in leaves.items():
        if leaf.kind not in STORED_DTYPES:
            how = f"is stored as {leaf.kind}"
            raise quantised_error(directory, name, how, config.quantised)
    if config.quantised:
        note(
            f"{directory}: config.json says quantised ({config.quantised}), but the tensors are "
            "not; they are read as they are"
        )
    if config.tie_word_embeddings and HEAD in leaves:
        leaves.setdefault(EMBEDDING, leaves[HEAD])  # whichever of the two is there
        if _equal(leaves[HEAD], leaves[EMBEDDING]):
            del leaves[HEAD]
        else:
            note(
                f"{directory}: config.json ties the head to the embedding, but the file has a head "
                "of its own, which is used (as in transformers >= 5.0; compat.tied_head: as before)"
            )
            config = replace(config, tie_word_embeddings=False)
    _compare(directory, {n: leaf.shape for n, leaf in leaves.items()}, weight_shapes(config))
    return assemble(leaves, config)


def _find_leaves(directory: Path, dtype: Any) -> dict[str, Stored]:
    """Published name -> tensor, of one file or of the shards of an index."""
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    shards = [single.name]
    if not single.exists() and not index.exists() and (what := other_directory(directory)):
        raise UserError(f"{directory} has no model.safetensors: {what}")
    if index.exists() and not single.exists():
        places = read_json(index).get("weight_map")
        shards = sorted({str(s) for s in places.values()}) if isinstance(places, dict) else []
        if not shards or not all(re.fullmatch(r"[\w-][\w.-]*", shard) for shard in shards):
            raise UserError(f"{index} should name shards inside its directory; fetch it again")
    leaves: dict[str, Stored] = {}
    for shard in shards:
        for name, leaf in read_safetensors(directory / shard, dtype, None).items():
            if published_name(name) in leaves:
                raise UserError(
                    f"{directory}: {name} stands twice in its files; remove one of them"
                )
            if not name.endswith("rotary_emb.inv_freq"):  # computed here, as in transformers
                leaves[published_name(name)] = leaf
    return leaves


def _equal(one: Stored, other: Stored, rows: int = 4096) -> bool:
    """Whether two matrices hold the same values; read by rows, and no further than they agree."""
    if one is other or one.shape != other.shape:
        return one is other
    with safe_open(one.path, framework="np") as a, safe_open(other.path, framework="np") as b:
        here, there = a.get_slice(one.name), b.get_slice(other.name)
        ends = [*range(rows, one.shape[0], rows), one.shape[0]]
        parts = [slice(begin, end) for begin, end in pairwise([0, *ends])]
        return all(np.array_equal(here[part], there[part]) for part in parts)


def _compare(directory: Path, found: Mapping[str, tuple], expected: Mapping[str, tuple]) -> None:
    for name in expected:
        if name not in found:
            if name == HEAD:
                raise UserError(
                    f"{directory}: the weights lack {name}; fetch it too, or set "
                    "tie_word_embeddings to true where the embedding is the head"
                )
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
