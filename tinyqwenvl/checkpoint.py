"""Load weights: a published directory of safetensors -> nested, lazy, named weights.

Opening reads only the headers. The safetensors library reads a tensor when it is first used, and
it is then converted to the requested dtype.
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

# transformers >= 4.52 uses other names in memory; some checkpoints were saved with them.
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
    """Convert stored values to ``dtype``. Only this function converts bfloat16 to float32."""
    return stored.astype(dtype, copy=False)


def to_bfloat16(array: np.ndarray) -> np.ndarray:
    """Convert float32 to bfloat16 for writing, rounded to nearest even."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(array, np.float32).astype(BFLOAT16)


@dataclass(frozen=True)
class Stored:
    """A tensor that is still in its file; call it to read it."""

    path: Path  # the safetensors file
    name: str  # in the file
    kind: str  # its dtype, by safetensors' name
    shape: tuple[int, ...]  # size of each axis
    dtype: np.dtype | None  # dtype to convert to; None: as stored

    def __call__(self) -> np.ndarray:
        """Read the tensor. Raises UserError if the file has changed."""
        try:
            with safe_open(self.path, framework="np") as file:
                array = file.get_tensor(self.name)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{self.path}: {self.name} cannot be read ({_line(error)})") from None
        return array if self.dtype is None else to_float(array, self.dtype)


def read_safetensors(
    path: Path, dtype: Any = np.float32, kinds: Collection[str] | None = tuple(STORED_DTYPES)
) -> dict[str, Stored]:
    """Open a file: name -> lazy tensor, converted to ``dtype`` when it is called.

    Raises UserError if the file is missing, truncated or not safetensors, and for a tensor whose
    dtype is not one of ``kinds`` (None: any).
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
        raise UserError(f"{path} is missing: fetch the whole checkpoint again") from None
    except (OSError, ValueError, SafetensorError) as error:
        if _begins_with(path, LFS):
            raise UserError(
                f"{path} is a Git LFS pointer, not the file itself: git lfs pull fetches it"
            ) from None
        raise UserError(
            f"{path} is truncated or not a safetensors file ({_line(error)}): fetch it again"
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
    """The first line of the library's message, of bounded length."""
    return (str(error) or type(error).__name__).partition("\n")[0][:200]


def write_safetensors(path: Path, flat: Mapping[str, np.ndarray], bfloat16: bool = False) -> None:
    """Write name -> array as float32 or bfloat16, atomically."""
    convert = to_bfloat16 if bfloat16 else np.float32
    save_whole(path, {name: np.asarray(convert(array)) for name, array in flat.items()})


def save_whole(path: Path, flat: Mapping[str, np.ndarray]) -> None:
    """Write name -> array unchanged, to a temporary file that is then renamed."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        save_file({n: np.asarray(a, order="C") for n, a in flat.items()}, part, {"format": "pt"})
        part.replace(path)
    except SafetensorError as error:  # e.g. the disk is full
        raise OSError(_line(error)) from None
    finally:
        part.unlink(missing_ok=True)


class Spool:
    """Collects tensors on disk and writes them in one call, so memory use stays constant.

    The library needs all tensors of a file at once. From safetensors 0.8 on it copies none of them.
    """

    def __init__(self, folder: Path):
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - nameless, closed by close
        self._parts: dict[str, tuple[np.dtype, tuple[int, ...], int]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    def add(
        self, name: str, dtype: np.dtype, shape: tuple[int, ...], chunks: Iterable[np.ndarray]
    ) -> None:
        """Add a tensor in ``chunks``, in memory order."""
        self._parts[name] = np.dtype(dtype), shape, self._file.tell()
        for chunk in chunks:
            self._file.write(chunk.astype(dtype, copy=False).tobytes())

    def save(self, path: Path) -> None:
        """Write all tensors to one safetensors file, atomically."""
        size = self._file.tell()
        self._file.flush()
        whole = np.memmap(self._file, np.uint8, "r") if size else np.empty(0, np.uint8)
        arrays = {}
        for name, (dtype, shape, start) in self._parts.items():
            part = whole[start : start + math.prod(shape) * dtype.itemsize]
            arrays[name] = np.asarray(part).view(dtype).reshape(shape)
        save_whole(path, arrays)

    def close(self) -> None:
        """Free the disk space."""
        self._file.close()


# ------------------------------------------------------------------ a published directory


def published_name(name: str) -> str:
    """Map any known layout of names to the published one (``visual.*``, ``model.*``, ...)."""
    for there, here in _RENAMED:
        if name.startswith(there):
            return here + name[len(there) :]
    return name


def weight_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """The published name and shape of every weight of a model with this config."""
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
    """The number of parameters of a model."""
    return sum(map(math.prod, weight_shapes(config).values()))


def load_weights(directory: Path, config: Config, dtype: Any = np.float32) -> Weights:
    """Load all weights of a directory: one ``model.safetensors``, or shards listed by an index.

    An LM head in the file overrides ``tie_word_embeddings``, with a note, as in transformers >= 5.0
    (``compat.tied_head`` does what 4.x does). Raises UserError if a tensor is missing, unknown,
    quantised, or has another shape than ``config`` requires.
    """
    leaves = _find_leaves(directory, dtype)
    explain_names(directory, leaves, config.quantised)
    for name, leaf in leaves.items():
        if leaf.kind not in STORED_DTYPES:
            how = f"is stored as {leaf.kind}"
            raise quantised_error(directory, name, how, config.quantised)
    if config.quantised:
        note(
            f"{directory}: config.json declares quantisation ({config.quantised}), but the tensors "
            "are not quantised; they are loaded as they are"
        )
    if config.tie_word_embeddings and HEAD in leaves:
        leaves.setdefault(EMBEDDING, leaves[HEAD])  # if only one of the two exists
        if _equal(leaves[HEAD], leaves[EMBEDDING]):
            del leaves[HEAD]
        else:
            note(
                f"{directory}: config.json ties the LM head to the embedding, but the file has its "
                "own head, which is used (as in transformers >= 5.0; compat.tied_head: as in 4.x)"
            )
            config = replace(config, tie_word_embeddings=False)
    _compare(directory, {n: leaf.shape for n, leaf in leaves.items()}, weight_shapes(config))
    return assemble(leaves, config)


def _find_leaves(directory: Path, dtype: Any) -> dict[str, Stored]:
    """Published name -> tensor, from one file or from the shards of an index."""
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    shards = [single.name]
    if not single.exists() and not index.exists() and (what := other_directory(directory)):
        raise UserError(f"{directory} has no model.safetensors: {what}")
    if index.exists() and not single.exists():
        places = read_json(index).get("weight_map")
        shards = sorted({str(s) for s in places.values()}) if isinstance(places, dict) else []
        if not shards or not all(re.fullmatch(r"[\w-][\w.-]*", shard) for shard in shards):
            raise UserError(f"{index} must list shards inside its directory; fetch it again")
    leaves: dict[str, Stored] = {}
    for shard in shards:
        for name, leaf in read_safetensors(directory / shard, dtype, None).items():
            if published_name(name) in leaves:
                raise UserError(
                    f"{directory}: {name} occurs twice in its files; remove one of them"
                )
            if not name.endswith("rotary_emb.inv_freq"):  # computed here, as in transformers
                leaves[published_name(name)] = leaf
    return leaves


def _equal(one: Stored, other: Stored, rows: int = 4096) -> bool:
    """Whether two matrices are equal; reads chunks of rows and stops at the first difference."""
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
                    "tie_word_embeddings to true if the embedding is the head"
                )
            raise UserError(
                f"{directory}: the weights lack {name}; fetch the whole checkpoint again"
            )
        if found[name] != expected[name]:
            raise UserError(
                f"{directory}: {name} has shape {list(found[name])}, but config.json requires "
                f"{list(expected[name])}"
            )
    if extra := next((name for name in found if name not in expected), None):
        raise UserError(f"{directory}: unknown weight {extra}; is it another kind of model?")


def assemble(flat: Mapping[str, Any], config: Config) -> Weights:
    """Nest published names to the weights of a model; a tied ``lm_head`` shares the embedding."""
    root = nest(flat)
    if not config.tie_word_embeddings:
        return root
    head = Weights({"weight": lambda: root.model.embed_tokens.weight}, "lm_head")
    return Weights({"visual": root.visual, "model": root.model, "lm_head": head})
