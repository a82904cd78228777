"""The configs of the seven published sizes, for tools that need no weights.

We wrote these without access to the hub, so every entry is second-hand: ``KNOWN_FROM`` names its
source. The resulting parameter counts match those remembered of the published files.
"""

from __future__ import annotations

from typing import Any

from .config import Config, parse_config
from .errors import UserError

#                      hidden layers  heads  kv     mlp   vocab  tied
_TEXT: dict[str, tuple[int, int, int, int, int, int, bool]] = {
    "qwen2-vl-2b": (1536, 28, 12, 2, 8960, 151936, True),
    "qwen2-vl-7b": (3584, 28, 28, 4, 18944, 152064, False),
    "qwen2-vl-72b": (8192, 80, 64, 8, 29568, 152064, False),
    "qwen2.5-vl-3b": (2048, 36, 16, 2, 11008, 151936, True),
    "qwen2.5-vl-7b": (3584, 28, 28, 4, 18944, 152064, False),
    "qwen2.5-vl-32b": (5120, 64, 40, 8, 27648, 152064, False),
    "qwen2.5-vl-72b": (8192, 80, 64, 8, 29568, 152064, False),
}
_VISION_MLP = {"qwen2.5-vl-3b": 3420, "qwen2.5-vl-7b": 3420}
_VISION_MLP |= {"qwen2.5-vl-32b": 3456, "qwen2.5-vl-72b": 3456}

KNOWN_FROM = {
    "qwen2-vl-2b": "from memory",
    "qwen2-vl-7b": "a copy in a public thread",
    "qwen2-vl-72b": "from memory",
    "qwen2.5-vl-3b": "a copy of the published file",
    "qwen2.5-vl-7b": "a copy in a public thread",
    "qwen2.5-vl-32b": "sizes from a note on the published file, the rest from memory",
    "qwen2.5-vl-72b": "from memory",
}
PRESETS = tuple(_TEXT)


def preset_json(name: str) -> dict[str, Any]:
    """The ``config.json`` of a published size, flat as on the hub. Raises UserError."""
    if name not in _TEXT:
        raise UserError(f"unknown preset {name[:100]}; use one of {', '.join(PRESETS)}")
    width, layers, heads, shared, mlp, vocabulary, tied = _TEXT[name]
    vision: dict[str, Any] = {"depth": 32, "num_heads": 16, "patch_size": 14}
    vision |= {"spatial_merge_size": 2, "temporal_patch_size": 2, "in_chans": 3}
    newer = name.startswith("qwen2.5")
    if newer:
        vision |= {"hidden_size": 1280, "intermediate_size": _VISION_MLP[name]}
        vision |= {"out_hidden_size": width, "window_size": 112, "tokens_per_second": 2}
        vision |= {"fullatt_block_indexes": [7, 15, 23, 31], "hidden_act": "silu"}
    else:
        vision |= {"embed_dim": 1280, "hidden_size": width, "mlp_ratio": 4}
        vision |= {"hidden_act": "quick_gelu"}
    return {
        "model_type": "qwen2_5_vl" if newer else "qwen2_vl",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "intermediate_size": mlp,
        "vocab_size": vocabulary,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "hidden_act": "silu",
        "tie_word_embeddings": tied,
        "image_token_id": 151655,
        "video_token_id": 151656,
        "vision_config": vision,
    }


def preset(name: str) -> Config:
    """The :class:`Config` of a published size, such as "qwen2.5-vl-3b". Raises UserError."""
    return parse_config(preset_json(name))
