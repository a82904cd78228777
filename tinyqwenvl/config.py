"""Load the configuration of a published checkpoint: ``config.json`` and its companion files.

Field names are the published ones. Both layouts are supported: the flat one of the hub (text
settings at the root, ``rope_scaling``) and the nested one of transformers 5 (``text_config``,
``rope_parameters``). Qwen2-VL's vision names are translated to Qwen2.5-VL's clearer ones: in
Qwen2-VL, the vision ``hidden_size`` is that of the *text* model (here ``out_hidden_size``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .errors import UserError, note
from .finetuned import other_directory, refuse_adapter
from .processor_settings import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGE_FILE,
    NESTED,
    VIDEO_FILE,
    VIDEO_LIMITS,
    ProcessorConfig,
    VideoSettings,
    image_settings,
    only,
    read_image_settings,
    read_video_settings,
    video_settings,
)

__all__ = [  # including names of processor_settings that older code imports from here
    "CLIP_MEAN",
    "CLIP_STD",
    "FAMILIES",
    "VIDEO_LIMITS",
    "Config",
    "ProcessorConfig",
    "TextConfig",
    "VisionConfig",
    "load_config",
    "parse_config",
    "read_json",
    "read_text",
]

PUBLISHED_IMAGES, PUBLISHED_VIDEOS = ProcessorConfig(), VideoSettings()
FAMILIES = ("qwen2_vl", "qwen2_5_vl")
LARGEST = {  # larger values mean a damaged file
    "depth": 1000, "num_hidden_layers": 1000, "hidden_size": 2**20, "out_hidden_size": 2**20,
    "patch_size": 2**10, "spatial_merge_size": 2**6, "temporal_patch_size": 2**6,
}  # fmt: skip


@dataclass(frozen=True)
class VisionConfig:
    """The vision encoder. Image sizes are in pixels unless stated otherwise."""

    depth: int  # blocks
    hidden_size: int  # D of the vision encoder
    num_heads: int  # A
    intermediate_size: int  # hidden size of the MLP
    out_hidden_size: int  # D of the decoder
    patch_size: int = 14  # pixels per side of a patch
    spatial_merge_size: int = 2  # patches per side of a merge group
    temporal_patch_size: int = 2  # frames per patch
    in_channels: int = 3  # colour channels C
    window_size: int = 112  # pixels per side of an attention window
    fullatt_block_indexes: tuple[int, ...] = (7, 15, 23, 31)  # the blocks with full attention
    tokens_per_second: int = 4  # time positions per second of video
    rms_norm_eps: float = 1e-6  # for every vision norm, independent of the text model
    rope_theta: float = 10000.0  # base of the 2-D RoPE frequencies

    @property
    def merged_patches(self) -> int:
        """Patches per merge group: 4."""
        return self.spatial_merge_size**2


@dataclass(frozen=True)
class TextConfig:
    """The decoder."""

    hidden_size: int  # D
    num_hidden_layers: int  # decoder layers
    num_attention_heads: int  # A
    num_key_value_heads: int  # B
    intermediate_size: int  # hidden size of the MLP
    vocab_size: int  # V
    rms_norm_eps: float  # added to the mean square in every RMSNorm
    rope_theta: float  # base of the mRoPE frequencies
    mrope_section: tuple[int, ...]  # number of frequencies for time, height, width

    @property
    def head_dim(self) -> int:
        """The head dimension d."""
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True)
class Config:
    """A whole model."""

    model_type: str  # "qwen2_vl" or "qwen2_5_vl"
    vision: VisionConfig  # sizes of the vision encoder
    text: TextConfig  # sizes of the decoder
    image_token_id: int  # the placeholder of an image token
    video_token_id: int  # the placeholder of a video token
    tie_word_embeddings: bool  # the LM head shares the token embedding's weight
    processor: ProcessorConfig = PUBLISHED_IMAGES  # pixel limits and normalisation of images
    eos_token_ids: tuple[int, ...] = ()  # stop tokens, which end an answer
    video_limits: tuple[int, ...] = VIDEO_LIMITS  # (least, most) pixels per frame; not in policy hf
    generation: Mapping[str, Any] = field(default_factory=dict)  # for sampling.published
    video: VideoSettings = PUBLISHED_VIDEOS  # sampling settings of videos
    quantised: str = ""  # the method that config.json names


# ------------------------------------------------------------------ reading


def read_text(path: Path) -> str:
    """Read a text file. Raises UserError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path.parent} has no {path.name}: is it a model directory?") from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; fetch the file again") from None


def read_json(path: Path, required: bool = False) -> dict[str, Any]:
    """Read a JSON object; {} if the file does not exist and is not required."""
    if not path.exists() and not required:
        return {}
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not JSON: {error}; fetch the file again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} must contain one JSON object; fetch the file again")
    return value


def load_config(directory: Path) -> Config:
    """Load ``config.json`` and the processor and generation configs.

    Raises UserError for another kind of model, an unsupported setting or an impossible size.
    """
    refuse_adapter(directory)
    if not (directory / "config.json").exists() and (what := other_directory(directory)):
        raise UserError(f"{directory} has no config.json: {what}")
    raw = read_json(directory / "config.json", required=True)
    names = (NESTED, IMAGE_FILE, VIDEO_FILE)
    files = {n: read_json(directory / n) if (directory / n).exists() else None for n in names}
    generation = read_json(directory / "generation_config.json")
    try:
        return parse_config(raw, files, generation)
    except UserError as error:
        raise UserError(f"{directory}: {error}") from None
    except KeyError as error:
        raise UserError(f"{directory}: config.json lacks {error}") from None
    except (TypeError, AttributeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{directory}: a setting in its JSON files has the wrong type: {error}"
        ) from None


def parse_config(
    raw: dict[str, Any],
    files: dict[str, dict[str, Any] | None] | None = None,
    generation: dict[str, Any] | None = None,
) -> Config:
    """Build a checked :class:`Config` from the content of ``config.json`` and its companions.

    ``files``: name -> content of the image and video settings, None for a missing file. Without
    ``files``, images and videos get the published settings.
    """
    model_type = raw.get("model_type")
    if model_type not in FAMILIES:
        raise UserError(
            f"model_type is {model_type!r}; supported are {', '.join(FAMILIES)}{_hint(model_type)}"
        )
    if not raw.get("vision_config"):
        raise KeyError("vision_config")
    nested = raw.get("text_config") is not None  # then the root has no settings of the text model
    text = _object(raw, "text_config") if nested else raw
    vision = _vision(_object(raw, "vision_config"), model_type)
    config = Config(
        model_type=model_type,
        vision=vision,
        text=_text(text, nested),
        image_token_id=raw.get("image_token_id", 151655),
        video_token_id=raw.get("video_token_id", 151656),
        tie_word_embeddings=raw.get("tie_word_embeddings")
        or text.get("tie_word_embeddings", False),
        eos_token_ids=_stops(raw, text, generation or {}),
        generation=generation or {},
        quantised=_method(_object(raw, "quantization_config")),
    )
    if files is not None:
        config = _with_media(config, files)
    _check(config)
    return config


def _hint(model_type: Any) -> str:
    """What to do about a known directory of another model."""
    if model_type in ("qwen2_vl_text", "qwen2_5_vl_text", "qwen2"):
        return ". This is only a text model; use the whole checkpoint with its vision encoder"
    if isinstance(model_type, str) and model_type.startswith(("qwen3", "qwen2_5_omni")):
        return ". This is another architecture"
    return ""


def _method(quantised: dict[str, Any]) -> str:
    """The method of a quantization_config; "" if there is none."""
    return str(quantised.get("quant_method", "unknown"))[:50] if quantised else ""


def _stops(
    raw: dict[str, Any], text: dict[str, Any], generation: dict[str, Any]
) -> tuple[int, ...]:
    """The stop tokens of generation_config.json, else of config.json (with a note).

    transformers reads config.json only if there is no generation_config.json at all.
    """
    eos = generation.get("eos_token_id")
    if eos is None:
        eos = raw.get("eos_token_id", text.get("eos_token_id"))
        if generation and eos is not None:
            note(f"generation_config.json has no eos_token_id; {eos} of config.json is used")
    return tuple(eos if isinstance(eos, list) else [eos] if eos is not None else [])


def _with_media(config: Config, files: dict[str, dict[str, Any] | None]) -> Config:
    """The config with the settings of images and videos."""
    vision = config.vision
    sizes = {
        "patch_size": vision.patch_size,
        "merge_size": vision.spatial_merge_size,
        "temporal_patch_size": vision.temporal_patch_size,
    }
    images = read_image_settings(image_settings(files), sizes)
    video, limits = read_video_settings(*video_settings(files), images, sizes)
    return replace(config, processor=images, video=video, video_limits=limits)


def _object(holder: dict[str, Any], name: str) -> dict[str, Any]:
    """A nested JSON object of the settings; {} if it is missing."""
    value = holder.get(name) or {}
    if not isinstance(value, dict):
        raise UserError(f"{name} is {value!r}, not a JSON object")
    return value


def _text(text: dict[str, Any], nested: bool) -> TextConfig:
    rope = _object(text, "rope_scaling") or _object(text, "rope_parameters")
    if any(isinstance(value, dict) for value in rope.values()):
        raise UserError("the rope settings differ between kinds of layers; that is not supported")
    only("rope_type", rope.get("rope_type", rope.get("type", "default")), "default", "mrope")
    only("hidden_act", text.get("hidden_act", "silu"), "silu")
    only("use_sliding_window", text.get("use_sliding_window") or False, False)
    if set(kinds := text.get("layer_types") or []) - {"full_attention"}:
        raise UserError(f"layer_types is {kinds}; only full_attention is supported")
    width, heads = text["hidden_size"], text["num_attention_heads"]
    if nested and text.get("head_dim") not in (None, width // heads):
        raise UserError(f"head_dim is {text['head_dim']!r}, not hidden_size / num_attention_heads")
    shared = text.get("num_key_value_heads", 8)  # transformers: 8 if absent, all heads if null
    return TextConfig(
        hidden_size=width,
        num_hidden_layers=text["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=heads if shared is None else shared,
        intermediate_size=text["intermediate_size"],
        vocab_size=text["vocab_size"],
        rms_norm_eps=text["rms_norm_eps"],
        rope_theta=rope.get("rope_theta", text.get("rope_theta", 1e6)),
        mrope_section=tuple(rope.get("mrope_section", (16, 24, 24))),
    )


def _vision(vision: dict[str, Any], model_type: str) -> VisionConfig:
    optional = ["patch_size", "spatial_merge_size", "temporal_patch_size", "in_channels"]
    sizes = {"depth": vision["depth"], "num_heads": vision["num_heads"]}
    if model_type == "qwen2_vl":
        only("vision hidden_act", vision.get("hidden_act", "quick_gelu"), "quick_gelu")
        sizes["hidden_size"] = vision["embed_dim"]
        sizes["intermediate_size"] = int(vision["embed_dim"] * vision.get("mlp_ratio", 4))
        sizes["out_hidden_size"] = vision.get("hidden_size", 3584)
        sizes["fullatt_block_indexes"] = tuple(range(min(vision["depth"], LARGEST["depth"])))
    else:
        only("vision hidden_act", vision.get("hidden_act", "silu"), "silu")
        sizes["hidden_size"] = vision["hidden_size"]
        sizes["intermediate_size"] = vision["intermediate_size"]
        sizes["out_hidden_size"] = vision.get("out_hidden_size", 3584)
        optional += ["window_size", "tokens_per_second"]
        if "fullatt_block_indexes" in vision:
            sizes["fullatt_block_indexes"] = tuple(vision["fullatt_block_indexes"])
    sizes |= {name: vision[name] for name in optional if name in vision}
    rope = _object(vision, "rope_scaling") or _object(vision, "rope_parameters")
    only("vision rope_type", rope.get("rope_type", rope.get("type", "axial")), "axial", "default")
    theta = vision.get("rope_theta", VisionConfig.rope_theta)
    return VisionConfig(**sizes, rope_theta=rope.get("rope_theta", theta))


def _check(config: Config) -> None:
    """Check types and sizes; each error has its own line."""
    vision, text, processor = config.vision, config.text, config.processor
    for part in (vision, text, processor, config.video, config):
        for name, kind in part.__annotations__.items():
            _check_number(name, getattr(part, name), kind)
    if not isinstance(config.tie_word_embeddings, bool):
        raise UserError(f"tie_word_embeddings is {config.tie_word_embeddings!r}, not true or false")
    if vision.hidden_size % (4 * vision.num_heads):
        raise UserError("vision hidden_size must be a multiple of 4 * num_heads")
    if text.hidden_size % (2 * text.num_attention_heads):
        raise UserError("hidden_size must be an even multiple of num_attention_heads")
    if text.num_attention_heads % text.num_key_value_heads:
        raise UserError("num_attention_heads must be a multiple of num_key_value_heads")
    if len(text.mrope_section) != 3 or 2 * sum(text.mrope_section) != text.head_dim:
        half = text.head_dim // 2
        raise UserError(
            f"mrope_section {list(text.mrope_section)} must be three numbers, sum {half}"
        )
    if vision.out_hidden_size != text.hidden_size:
        raise UserError("the vision encoder's output size must be the decoder's hidden_size")
    if vision.window_size < vision.patch_size * vision.spatial_merge_size:
        raise UserError("window_size is smaller than one merged token")
    for least, most in ((processor.min_pixels, processor.max_pixels), config.video_limits):
        if not 0 < least <= most:
            raise UserError(
                f"a preprocessor's min_pixels {least} and max_pixels {most} allow no size"
            )
    if len(processor.image_mean) != 3 or len(processor.image_std) != 3 or 0 in processor.image_std:
        raise UserError("image_mean and image_std must be three numbers each, image_std not zero")


def _check_number(name: str, value: Any, kind: str) -> None:
    """One field against its annotation; indices and ids may be 0, sizes may not."""
    if kind.startswith("tuple[int"):
        for item in value:
            _check_number(f"each of {name}", item, "index")
    elif kind.startswith("tuple[float"):
        if not all(type(v) in (int, float) and math.isfinite(v) for v in value):
            raise UserError(f"{name} is {list(value)}, not finite numbers")
    elif kind in ("int", "index"):
        least = 0 if kind == "index" or name.endswith(("_id", "_tokens")) else 1
        most = LARGEST.get(name, 2**31)
        if type(value) is not int or not least <= value <= most:
            raise UserError(f"{name} is {value!r}, not an integer from {least} to {most}")
    elif kind == "float" and not (type(value) in (int, float) and 0 < value <= 1e30):
        raise UserError(f"{name} is {value!r}, not a positive number")
