"""The small files of a published checkpoint: configs, chat template, tokenizer, shard index.

Used by scripts.random_checkpoint, which writes the weights. The config of Qwen2.5-VL-3B is that of
a copy of the published file; of the other sizes it has what presets.KNOWN_FROM says, and no
setting without effect (such as max_window_layers). Shards hold at most 4 GB and are filled in the
order of the modules: that yields 2 shards for 3B, 5 for 7B, 18 for 32B and 38 for 72B.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from tinyqwenvl.config import CLIP_MEAN, CLIP_STD
from tinyqwenvl.errors import UserError
from tinyqwenvl.model import EMBEDDED
from tinyqwenvl.presets import preset_json
from tinyqwenvl.tokenizer import ADDED_TOKENS, load_tokenizer

BYTES = 256  # ids of the single bytes
FIRST_ADDED = 151643  # the published id of <|endoftext|>; the other added tokens follow
SHARD_BYTES = 4_000_000_000
INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = (
    "tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "added_tokens.json",
    "special_tokens_map.json",
)  # fmt: skip
Shapes = Mapping[str, tuple[int, ...]]

# ------------------------------------------------------------------ config.json


def published_config(
    preset: str, layers: int | None = None, depth: int | None = None
) -> dict[str, Any]:
    """The ``config.json`` of a published size, cut to ``layers`` and ``depth`` where given.

    Full-attention blocks beyond ``depth`` are dropped; where none is left, the last block is full.
    Raises UserError for an unknown size, or more layers than it has.
    """
    sizes = preset_json(preset)
    newer = sizes["model_type"] == "qwen2_5_vl"
    raw = {
        "architectures": [f"Qwen2{'_5_' * newer}VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": FIRST_ADDED,
        "eos_token_id": FIRST_ADDED + ADDED_TOKENS.index("<|im_end|>"),
        **{
            f"{name}_token_id": FIRST_ADDED + ADDED_TOKENS.index(f"<|{token}|>")
            for name, token in (
                ("vision_start", "vision_start"),
                ("vision_end", "vision_end"),
                ("vision", "vision_pad"),
            )
        },
        "initializer_range": 0.02,
        "max_position_embeddings": 128000 if newer else 32768,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.41.2",
        "use_cache": True,
        "use_sliding_window": False,
        **sizes,
        "rope_theta": float(sizes["rope_theta"]),
    }
    if preset == "qwen2.5-vl-3b":
        raw |= {"max_window_layers": 70, "sliding_window": 32768}
    vision = raw["vision_config"]
    vision["spatial_patch_size"] = vision["patch_size"]
    raw["num_hidden_layers"] = _cut("layers", layers, raw["num_hidden_layers"], preset)
    vision["depth"] = _cut("depth", depth, vision["depth"], preset)
    if newer:
        full = [i for i in vision["fullatt_block_indexes"] if i < vision["depth"]]
        vision["fullatt_block_indexes"] = full or [vision["depth"] - 1]
    return raw


def _cut(what: str, asked: int | None, whole: int, preset: str) -> int:
    if asked is not None and not 1 <= asked <= whole:
        raise UserError(f"--{what} {asked}: {preset} has {whole}; give a number from 1 to {whole}")
    return asked or whole


# ------------------------------------------------------------------ the other small files


def write_small_files(directory: Path, raw: dict[str, Any], tokenizer: Path | None = None) -> None:
    """All but the weights: configs, chat template, and a tokenizer of our own or a copied one."""
    newer = raw["model_type"] == "qwen2_5_vl"
    write_json(directory / "config.json", raw)
    preprocessor = {
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": f"Qwen2{'_5_' * newer}VLProcessor",
    }
    write_json(directory / "preprocessor_config.json", preprocessor)
    end, pad = raw["eos_token_id"], raw["bos_token_id"]
    sampling = (
        {"repetition_penalty": 1.05, "temperature": 1e-6}
        if newer
        else {"temperature": 0.01, "top_k": 1, "top_p": 0.001}
    )
    generation = {"bos_token_id": pad, "pad_token_id": pad, "eos_token_id": [end, pad]}
    write_json(directory / "generation_config.json", generation | {"do_sample": True} | sampling)
    shutil.copyfile(EMBEDDED / "chat_template.json", directory / "chat_template.json")
    if tokenizer is not None:
        for name in TOKENIZER_FILES:
            if (tokenizer / name).exists():
                shutil.copyfile(tokenizer / name, directory / name)
        return
    added = ADDED_TOKENS if newer else ADDED_TOKENS[: ADDED_TOKENS.index("<|video_pad|>") + 1]
    byte_tokenizer(raw["bos_token_id"], added).save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 131072}
    settings |= {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    write_json(directory / "tokenizer_config.json", settings)


def check_tokenizer(directory: Path, raw: dict[str, Any]) -> None:
    """Raises UserError where a tokenizer's special tokens are not those of the config."""
    tokenizer = load_tokenizer(directory)
    for name, token in (("image", "<|image_pad|>"), ("video", "<|video_pad|>")):
        if tokenizer.token_id(token) != raw[f"{name}_token_id"]:
            raise UserError(f"{directory}: {token} is not {raw[f'{name}_token_id']} as published")
    if len(tokenizer) > raw["vocab_size"]:
        raise UserError(f"{directory}: {len(tokenizer)} tokens, but {raw['vocab_size']} embeddings")


def byte_tokenizer(first_added: int = BYTES, added: tuple[str, ...] = ADDED_TOKENS) -> Any:
    """One token per byte, no merges, and Qwen's added tokens from the id ``first_added`` on.

    Ids between the bytes and the added tokens are never produced, and decode as ``[id]``.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: i for i, symbol in enumerate(alphabet)}
    vocabulary |= {f"[{i}]": i for i in range(BYTES, first_added)}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens([AddedToken(t, special=t.startswith("<|"), normalized=False) for t in added])
    return backend


def write_json(path: Path, value: dict[str, Any]) -> None:
    """JSON as the hub has it: indented by two."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


# ------------------------------------------------------------------ shards


def plan_shards(shapes: Shapes, most: int = SHARD_BYTES) -> dict[str, list[str]]:
    """File name -> the names of its tensors, in bfloat16; one file where all fit."""
    groups: list[list[str]] = [[]]
    room = most
    for name in module_order(shapes):
        size = tensor_bytes(shapes[name])
        if groups[-1] and size > room:
            groups.append([])
            room = most
        groups[-1].append(name)
        room -= size
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    count = len(groups)
    return {f"model-{i:05}-of-{count:05}.safetensors": g for i, g in enumerate(groups, 1)}


def module_order(shapes: Shapes) -> Iterator[str]:
    """Names in the order of the modules: a layer's norms follow its attention and its MLP."""
    for _, layer in groupby(shapes, lambda name: name.split(".")[:3]):
        yield from sorted(layer, key=lambda name: "layernorm" in name)


def tensor_bytes(shape: tuple[int, ...]) -> int:
    """Bytes of a tensor in bfloat16."""
    return 2 * math.prod(shape)


def write_index(directory: Path, shapes: Shapes, shards: dict[str, list[str]]) -> None:
    """The index of the shards, where there are several."""
    if len(shards) > 1:
        total = sum(map(tensor_bytes, shapes.values()))
        places = {name: file for file, names in shards.items() for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        write_json(directory / INDEX, index)
