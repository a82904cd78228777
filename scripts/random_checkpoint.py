"""Write random checkpoints in the published layout: small ones for tests, or published sizes.

    python -m scripts.random_checkpoint --preset qwen2.5-vl-3b [--layers N] [--depth N] -o DIR

The command writes a published size with its shapes, names, shards and config in bfloat16, in a
stream: memory does not grow with the model. The other files are made by scripts.checkpoint_files.

Weights of small models have a standard deviation of 0.2 and more: with the customary 0.02, badly
broken models pass any comparison (attention is nearly uniform, so errors in it hardly matter). In
published sizes 0.2 would overflow: there matrices are scaled by their fan-in (``spread``).
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import sys
import time
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from scripts.checkpoint_files import (
    BYTES,
    byte_tokenizer,
    check_tokenizer,
    plan_shards,
    published_config,
    tensor_bytes,
    write_index,
    write_json,
    write_small_files,
)
from tinyqwenvl.checkpoint import BFLOAT16, Spool, to_bfloat16, weight_shapes, write_safetensors
from tinyqwenvl.cli import Parser, command
from tinyqwenvl.config import parse_config
from tinyqwenvl.errors import UserError
from tinyqwenvl.presets import PRESETS
from tinyqwenvl.tokenizer import ADDED_TOKENS

TOKEN_IDS = {token: BYTES + i for i, token in enumerate(ADDED_TOKENS)}


def tiny_config(model_type: str, **text: Any) -> dict[str, Any]:
    """A ``config.json`` of few, small, ragged numbers, flat as on the hub; ``text`` overrides it.

    Four vision blocks, of which blocks 1 and 3 have full attention in Qwen2.5-VL.
    """
    width = text.get("hidden_size", 64)
    vision: dict[str, Any] = {"depth": 4, "num_heads": 3, "patch_size": 14, "in_chans": 3}
    vision |= {"spatial_merge_size": 2, "temporal_patch_size": 2}
    if model_type == "qwen2_vl":
        vision |= {
            "embed_dim": 48,
            "hidden_size": width,
            "mlp_ratio": 2,
            "hidden_act": "quick_gelu",
        }
    else:
        vision |= {"hidden_size": 48, "out_hidden_size": width, "intermediate_size": 76}
        vision |= {"window_size": 112, "fullatt_block_indexes": [1, 3], "tokens_per_second": 2}
        vision |= {"hidden_act": "silu"}
    name = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL"}[model_type]
    return {
        "architectures": [f"{name}ForConditionalGeneration"],
        "model_type": model_type,
        "hidden_size": 64,
        "intermediate_size": 92,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 300,
        "rms_norm_eps": 1e-2,  # far from the 1e-6 that vision norms have in any case
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "bos_token_id": TOKEN_IDS["<|endoftext|>"],
        "eos_token_id": TOKEN_IDS["<|im_end|>"],
        "vision_start_token_id": TOKEN_IDS["<|vision_start|>"],
        "vision_end_token_id": TOKEN_IDS["<|vision_end|>"],
        "image_token_id": TOKEN_IDS["<|image_pad|>"],
        "video_token_id": TOKEN_IDS["<|video_pad|>"],
        "vision_config": vision,
        **text,
    }


def random_weights(raw: dict[str, Any], seed: int, std: float = 0.2) -> dict[str, np.ndarray]:
    """Normal weights for every name a model of this config has, exact in bfloat16.

    Norm scales are spread around 1, all else around 0. RandomState: its stream never changes.
    """
    rng = np.random.RandomState(seed)
    flat = {}
    for name, shape in weight_shapes(parse_config(raw)).items():
        centre = 1.0 if "norm" in name.rsplit(".", 2)[-2] or "ln_q" in name else 0.0
        if name.endswith("bias"):
            centre = 0.0
        values = rng.normal(centre, std, shape).astype(np.float32)
        flat[name] = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
    return flat


def random_image(seed: int, height: int, width: int) -> np.ndarray:
    """Noise of several sizes, [H, W, 3] uint8: every patch differs, and so does every pixel."""
    rng = np.random.RandomState(seed)
    coarse = rng.randint(0, 160, (-(-height // 16), -(-width // 16), 3))
    smooth = np.repeat(np.repeat(coarse, 16, axis=0), 16, axis=1)[:height, :width]
    return (smooth + rng.randint(0, 96, (height, width, 3))).astype(np.uint8)


def with_images(items: list[dict], images: list) -> list[dict]:
    """A message's content in which ``{"image": 0}`` stands for the first of ``images``."""
    return [{"image": images[i["image"]]} if "image" in i else i for i in items]


def write_checkpoint(
    directory: Path, raw: dict[str, Any], seed: int = 0, bfloat16: bool = True, std: float = 0.2
) -> Path:
    """A directory that looks like a published one and that transformers loads too."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "config.json", raw)
    write_json(
        directory / "preprocessor_config.json",
        {
            "min_pixels": 3136,
            "max_pixels": 12845056,
            "image_processor_type": "Qwen2VLImageProcessor",
        },
    )
    write_safetensors(directory / "model.safetensors", random_weights(raw, seed, std), bfloat16)
    byte_tokenizer().save(str(directory / "tokenizer.json"))
    write_json(directory / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    return directory


# ------------------------------------------------------------------ published sizes

CHUNK = 2**22  # values that are made at a time
SHARPER = 2**0.5  # for queries and keys: attention scores of a standard deviation of 2, not 1


def spread(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """(mean, standard deviation) of a weight, such that values stay near 1 through all layers.

    Matrices: 1 / sqrt(fan-in), queries and keys more; embeddings: 1 / sqrt(hidden size), as a tied
    head needs; scales of norms: 1 and 0.2; biases: 0 and 0.2.
    """
    if len(shape) == 1:
        return float(name.endswith("weight")), 0.2
    gain = SHARPER if any(part in name for part in ("q_proj", "k_proj", "qkv")) else 1.0
    return 0.0, gain / math.sqrt(math.prod(shape[1:]))


@cache
def _quantiles() -> np.ndarray:
    """The 65,536 quantiles of the normal distribution that 16 random bits choose from."""
    normal = NormalDist()
    return np.array([normal.inv_cdf((i + 0.5) / 65536) for i in range(65536)])


def random_bits(name: str, shape: tuple[int, ...], seed: int) -> Iterator[np.ndarray]:
    """Chunks of one weight in bfloat16; they depend on the name and the seed alone."""
    mean, std = spread(name, shape)
    table = to_bfloat16((mean + std * _quantiles()).astype(np.float32))
    source = np.random.PCG64([seed, zlib.crc32(name.encode())])  # its raw stream never changes
    for start in range(0, math.prod(shape), CHUNK):
        count = min(CHUNK, math.prod(shape) - start)
        yield table[source.random_raw(-(-count // 4)).astype("<u8").view("<u2")[:count]]


def write_shard(
    path: Path, names: list[str], shapes: dict[str, tuple[int, ...]], seed: int
) -> None:
    """One safetensors file, made a chunk at a time; needs twice its room on the disk meanwhile."""
    spool = Spool(path.parent)
    try:
        for name in names:
            bits = random_bits(name, shapes[name], seed)
            spool.add(name, BFLOAT16, shapes[name], bits)
        spool.save(path)
    finally:
        spool.close()


def stream_checkpoint(
    directory: Path,
    raw: dict[str, Any],
    seed: int = 0,
    tokenizer: Path | None = None,
    **shards: int,
) -> tuple[int, int]:
    """Write a checkpoint of any size to a new ``directory``; returns its parameters and its shards.

    Nothing appears under that name before all is written. Raises UserError where the directory
    exists, or the disk has too little room.
    """
    shapes = weight_shapes(parse_config(raw))
    plan = plan_shards(shapes, **shards)
    sizes = [sum(tensor_bytes(shapes[name]) for name in names) for names in plan.values()]
    needed = sum(sizes) + max(sizes) + 2**25  # one shard twice while it is made; the small files
    if os.path.lexists(directory):
        raise UserError(f"{directory} exists already: give another name, or remove it first")
    if not directory.parent.is_dir():
        raise UserError(f"{directory.parent} is no directory: make it first")
    if (free := shutil.disk_usage(directory.parent).free) < needed:
        raise UserError(f"{directory}: {needed:,} bytes are needed, {free:,} are free on this disk")
    if tokenizer is not None:
        check_tokenizer(tokenizer, raw)
    part = directory.with_name(f".{directory.name}.{os.getpid()}.part")
    part.mkdir()
    try:
        write_small_files(part, raw, tokenizer)
        for number, (file, names) in enumerate(plan.items(), 1):
            print(f"{file} ({number} of {len(plan)})", file=sys.stderr, flush=True)
            write_shard(part / file, names, shapes, seed)
        write_index(part, shapes, plan)
        part.rename(directory)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return sum(map(math.prod, shapes.values())), len(plan)


HELP = f"""usage: python -m scripts.random_checkpoint --preset NAME -o DIR [options]

Write a checkpoint of a published size with random weights, in the published layout.

  --preset NAME    {", ".join(PRESETS)}
  -o, --out DIR    the directory to make; it must not exist
  --layers N       only the first N layers of the decoder
  --depth N        only the first N blocks of the vision encoder
  --seed S         other weights (0)
  --tokenizer DIR  copy the tokenizer of this directory; without it, one token per byte, with
                   the added tokens at their published ids
  -h, --help       this text
  --version        the version of tinyqwenvl

Exit codes: 0 written, 2 bad input or a full disk, 130 interrupted. Nothing is left half-written.
"""


def run(argv: list[str] | None) -> None:
    """The command, with errors as exceptions."""
    parser = Parser("python -m scripts.random_checkpoint", HELP)
    parser.add_argument("--preset", required=True)
    parser.add_argument("-o", "--out", required=True)
    for name in ("--layers", "--depth"):
        parser.add_argument(name, type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokenizer", type=Path)
    options = parser.parse_args(argv)
    if not 0 <= options.seed < 2**32:
        raise UserError(f"--seed {options.seed}: give a number from 0 to {2**32 - 1}")
    if not options.out:
        raise UserError("--out needs the name of a directory to make")
    raw = published_config(options.preset, options.layers, options.depth)
    began = time.monotonic()
    out = Path(os.path.abspath(options.out))
    parameters, shards = stream_checkpoint(out, raw, options.seed, options.tokenizer)
    seconds = time.monotonic() - began
    files = "1 file" if shards == 1 else f"{shards} shards"
    print(f"{options.out}: {options.preset}, {parameters:,} parameters, {files}, {seconds:.1f} s")


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    return command(run, argv)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # removes what is half-written
    sys.exit(main())
