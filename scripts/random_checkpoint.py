"""Small random checkpoints in the published layout, for tests and for comparing with transformers.

Weights have a standard deviation of 0.2 and more: with the customary 0.02, badly broken models pass
any comparison (attention is nearly uniform, so it hardly matters where it looks).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tinyqwenvl.checkpoint import weight_shapes, write_safetensors
from tinyqwenvl.config import parse_config
from tinyqwenvl.tokenizer import ADDED_TOKENS

BYTES = 256  # ids of the single bytes; the added tokens follow
TOKEN_IDS = {token: BYTES + i for i, token in enumerate(ADDED_TOKENS)}


def tiny_config(model_type: str, **text: Any) -> dict[str, Any]:
    """A ``config.json`` of few, small, ragged numbers, flat as on the hub; ``text`` overrides it.

    Four vision blocks, of which blocks 1 and 3 look at whole frames in Qwen2.5-VL.
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
    _json(directory / "config.json", raw)
    _json(
        directory / "preprocessor_config.json",
        {
            "min_pixels": 3136,
            "max_pixels": 12845056,
            "image_processor_type": "Qwen2VLImageProcessor",
        },
    )
    write_safetensors(directory / "model.safetensors", random_weights(raw, seed, std), bfloat16)
    byte_tokenizer().save(str(directory / "tokenizer.json"))
    _json(directory / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    return directory


def byte_tokenizer() -> Any:
    """One token a byte, no merges, and Qwen's added tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(alphabet)}, []))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(
        [AddedToken(t, special=t.startswith("<|"), normalized=False) for t in ADDED_TOKENS]
    )
    return backend


def _json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
