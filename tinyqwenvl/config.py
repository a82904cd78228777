"""What a published directory says about its model: ``config.json`` and its small companions.

Field names are the published ones. Both layouts are read: the flat one of the hub (text settings at
the root, ``rope_scaling``) and the nested one that transformers 5 writes (``text_config``,
``rope_parameters``). Qwen2-VL's vision names are translated to Qwen2.5-VL's, which say what they
mean: its ``hidden_size`` is the width of the *text* model (here ``out_hidden_size``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import UserError

FAMILIES = ("qwen2_vl", "qwen2_5_vl")
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower. Widths are in numbers, sizes in pixels unless said otherwise."""

    depth: int  # blocks
    hidden_size: int  # D of the tower
    num_heads: int  # A
    intermediate_size: int  # width inside the MLP
    out_hidden_size: int  # D of the decoder
    patch_size: int = 14
    spatial_merge_size: int = 2  # patches on a side of a merged token
    temporal_patch_size: int = 2  # frames in a patch
    in_channels: int = 3
    window_size: int = 112  # pixels on a side of an attention window
    fullatt_block_indexes: tuple[int, ...] = (7, 15, 23, 31)  # the blocks without windows
    tokens_per_second: int = 4  # steps of the temporal position in a second of video
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0

    @property
    def patch_dim(self) -> int:
        """P, the numbers in one patch."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2


@dataclass(frozen=True)
class TextConfig:
    """The decoder."""

    hidden_size: int  # D
    num_hidden_layers: int
    num_attention_heads: int  # A
    num_key_value_heads: int  # B
    intermediate_size: int
    vocab_size: int  # V
    rms_norm_eps: float
    rope_theta: float
    mrope_section: tuple[int, int, int]  # frequencies turned by time, height, width
    max_position_embeddings: int = 32768

    @property
    def head_dim(self) -> int:
        """D."""
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True)
class PictureConfig:
    """``preprocessor_config.json``: how large a picture may be, and how it is normalised."""

    min_pixels: int = 56 * 56
    max_pixels: int = (
        16384 * 28 * 28
    )  # as published; the class default of transformers is 1280 * 28 * 28
    image_mean: tuple[float, ...] = CLIP_MEAN
    image_std: tuple[float, ...] = CLIP_STD

    def narrowed(self, min_pixels: int | None, max_pixels: int | None) -> tuple[int, int]:
        """The limits with what was asked for in their place; a limit not asked for gives way."""
        smallest = min(self.min_pixels, max_pixels or self.min_pixels)
        smallest = smallest if min_pixels is None else min_pixels
        return smallest, max(self.max_pixels, smallest) if max_pixels is None else max_pixels


@dataclass(frozen=True)
class Config:
    """A whole model."""

    model_type: str  # "qwen2_vl" or "qwen2_5_vl"
    vision: VisionConfig
    text: TextConfig
    image_token_id: int
    video_token_id: int
    tie_word_embeddings: bool
    picture: PictureConfig = PictureConfig()
    eos_token_ids: tuple[int, ...] = ()
    raw: dict = field(default_factory=dict, repr=False, compare=False)  # config.json as it was read


def read_json(path: Path, required: bool = False) -> dict[str, Any]:
    """A JSON object, or {} when the file is not there and not required."""
    if not path.exists() and not required:
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent} has no {path.name}: is it a model directory?") from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; fetch the file again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} should hold one JSON object; fetch the file again")
    return value


def load_config(directory: Path) -> Config:
    """Read ``config.json``, ``preprocessor_config.json`` and ``generation_config.json``."""
    raw = read_json(directory / "config.json", required=True)
    try:
        config = parse_config(
            raw,
            read_json(directory / "preprocessor_config.json"),
            read_json(directory / "generation_config.json"),
        )
        _check(config)
    except KeyError as error:
        raise UserError(f"{directory / 'config.json'} lacks {error}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{directory / 'config.json'}: {error}") from None
    return config


def parse_config(
    raw: dict, preprocessor: dict | None = None, generation: dict | None = None
) -> Config:
    """The dictionaries of the published files -> :class:`Config`."""
    model_type = raw.get("model_type")
    if model_type not in FAMILIES:
        raise UserError(f"model_type is {model_type!r}; known are {', '.join(FAMILIES)}")
    if quantised := raw.get("quantization_config"):
        method = quantised.get("quant_method", "unknown")
        raise UserError(f"the checkpoint is quantised ({method}); take the unquantised one")
    text = {**raw, **(raw.get("text_config") or {})}
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    eos = (generation or {}).get("eos_token_id", text.get("eos_token_id"))
    picture = preprocessor or {}
    size = picture.get("size") or {}
    return Config(
        model_type=model_type,
        vision=_vision(raw["vision_config"], model_type, text["hidden_size"]),
        text=TextConfig(
            **{
                name: text[name]
                for name in (
                    "hidden_size",
                    "num_hidden_layers",
                    "num_attention_heads",
                    "intermediate_size",
                    "vocab_size",
                    "rms_norm_eps",
                )
            },
            num_key_value_heads=text.get("num_key_value_heads") or text["num_attention_heads"],
            rope_theta=rope.get("rope_theta") or text.get("rope_theta", 1e6),
            mrope_section=tuple(rope.get("mrope_section", (16, 24, 24))),
            max_position_embeddings=text.get("max_position_embeddings", 32768),
        ),
        image_token_id=raw.get("image_token_id", 151655),
        video_token_id=raw.get("video_token_id", 151656),
        tie_word_embeddings=bool(raw.get("tie_word_embeddings") or text.get("tie_word_embeddings")),
        picture=PictureConfig(
            min_pixels=picture.get("min_pixels")
            or size.get("shortest_edge", PictureConfig.min_pixels),
            max_pixels=picture.get("max_pixels")
            or size.get("longest_edge", PictureConfig.max_pixels),
            image_mean=tuple(picture.get("image_mean", CLIP_MEAN)),
            image_std=tuple(picture.get("image_std", CLIP_STD)),
        ),
        eos_token_ids=tuple(eos if isinstance(eos, list) else [eos] if eos is not None else []),
        raw=raw,
    )


def _vision(vision: dict, model_type: str, text_width: int) -> VisionConfig:
    activation = "quick_gelu" if model_type == "qwen2_vl" else "silu"
    if vision.get("hidden_act", activation) != activation:
        raise UserError(
            f"vision hidden_act is {vision['hidden_act']!r}; {model_type} has {activation!r}"
        )
    if model_type == "qwen2_vl":
        sizes = {
            "hidden_size": vision["embed_dim"],
            "intermediate_size": int(vision["embed_dim"] * vision.get("mlp_ratio", 4)),
            "out_hidden_size": vision.get("hidden_size", text_width),
            "fullatt_block_indexes": tuple(range(vision["depth"])),
        }
    else:
        sizes = {
            "hidden_size": vision["hidden_size"],
            "intermediate_size": vision["intermediate_size"],
            "out_hidden_size": vision.get("out_hidden_size", text_width),
        }
    optional = ["patch_size", "spatial_merge_size", "temporal_patch_size", "in_channels"]
    if model_type == "qwen2_5_vl":
        optional += ["window_size", "tokens_per_second"]
        if vision.get("fullatt_block_indexes"):
            sizes["fullatt_block_indexes"] = tuple(int(i) for i in vision["fullatt_block_indexes"])
    return VisionConfig(
        depth=vision["depth"],
        num_heads=vision["num_heads"],
        **sizes,
        **{name: vision[name] for name in optional if name in vision},
    )


def _check(config: Config) -> None:
    """Sizes that cannot be: each gets its own line."""
    vision, text = config.vision, config.text
    for what, size in {**vars(vision), **vars(text)}.items():
        if isinstance(size, (int, float)) and size <= 0:
            raise ValueError(f"{what} is {size}; it must be positive")
    if vision.hidden_size % (4 * vision.num_heads):
        raise ValueError("vision hidden_size must be a multiple of 4 * num_heads")
    if text.hidden_size % (2 * text.num_attention_heads):
        raise ValueError("hidden_size must be an even multiple of num_attention_heads")
    if text.num_attention_heads % text.num_key_value_heads:
        raise ValueError("num_attention_heads must be a multiple of num_key_value_heads")
    if 2 * sum(text.mrope_section) != text.head_dim:
        raise ValueError(
            f"mrope_section {list(text.mrope_section)} must sum to half of {text.head_dim}"
        )
    if vision.out_hidden_size != text.hidden_size:
        raise ValueError("the vision tower's output width must be the decoder's hidden_size")
    if vision.window_size < vision.patch_size * vision.spatial_merge_size:
        raise ValueError("window_size is smaller than one merged token")
